"""Runs a program that nobody has read: a process of its own, fenced in by the kernel, in an empty folder, with a clock.

The fences are in `sandbox_child.py`. They are Linux's; on other systems, and where the kernel lacks one of them,
nothing is run and the error says so. A fence against a model's accidents, not against a kernel exploit.
"""

import json
import secrets
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Literal, TypeAlias

from tunesmith.errors import TunesmithError
from tunesmith.evaluation.sandbox_child import FENCED

SECONDS = 10
"""Of processor and of wall-clock time that a program gets."""

MEMORY_BYTES = 2**30

Outcome: TypeAlias = Literal["passed", "failed", "timed out"]


class SandboxError(TunesmithError, RuntimeError):
    """The sandbox cannot be set up on this system, so nothing was run."""


def run_program(program: str, *, seconds: int = SECONDS, memory_bytes: int = MEMORY_BYTES) -> Outcome:
    """Run `program` (Python); it passes when it runs to its end without an uncaught exception.

    Leaving early, with whatever exit status, is not passing. Raises SandboxError when the fences cannot be set up.
    """
    return compute(program, seconds=seconds, memory_bytes=memory_bytes)[0]


def compute(program: str, *, seconds: int = SECONDS, memory_bytes: int = MEMORY_BYTES) -> tuple[Outcome, str]:
    """Run `program` as `run_program` does; beside the outcome, the text it has left in its global `answer`.

    Empty where it has left none, or has not passed.
    """
    if sys.platform != "linux":
        raise SandboxError("running the models' code needs Linux (Landlock and seccomp); leave --run-code out")
    secret = secrets.token_hex(16)
    task = {"program": program, "seconds": seconds, "memory_bytes": memory_bytes, "secret": secret}
    child = str(Path(__file__).with_name("sandbox_child.py"))
    with tempfile.TemporaryDirectory(prefix="tunesmith-sandbox-") as folder:
        try:
            done = subprocess.run(  # noqa: S603  # that is what the fences are for
                [sys.executable, "-I", "-B", child],
                input=json.dumps(task).encode(),
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                cwd=folder,
                env={"PATH": "/usr/bin:/bin", "HOME": folder, "OMP_NUM_THREADS": "1"},
                timeout=seconds,
                start_new_session=True,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return "timed out", ""
    if done.returncode == FENCED:
        raise SandboxError(f"the models' code was not run: {done.stdout.decode()}; leave --run-code out")
    said, _, answer = done.stdout.decode(errors="replace").partition("\n")
    return ("passed", answer) if said == secret else ("failed", "")
