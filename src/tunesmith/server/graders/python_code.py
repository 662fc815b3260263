"""The python grader: a client's `grade(sample, item)`, run in the sandbox that pass@k uses, one process a reply.

A process costs about 0.1 s. It has no network, writes in an empty folder only, and gets 10 s and 1 GiB.
"""

import json
from collections.abc import Mapping
from typing import Any

from tunesmith.evaluation.sandbox import SandboxError, compute
from tunesmith.server.graders.failure import GraderError

_PROGRAM = """
import json
sample, item = json.loads({given!r})
try:
    space = {{"__name__": "grader"}}
    exec(compile({source!r}, "grader", "exec"), space)
    answer = json.dumps({{"score": float(space["grade"](sample, item))}})
except BaseException as error:
    answer = json.dumps({{"error": f"{{type(error).__name__}}: {{error}}"[:1000]}})
"""


def run_python(source: str, sample: Mapping[str, Any], item: Mapping[str, Any]) -> float:
    """What `grade` returns. Raises GraderError."""
    given = json.dumps([sample, item], default=str)
    try:
        outcome, answer = compute(_PROGRAM.format(given=given, source=source))
    except SandboxError as error:
        raise GraderError("python_grader_server_error", f"python grader: {error}") from error
    said = json.loads(answer) if outcome == "passed" and answer else {"error": f"the program {outcome}"}
    if "score" not in said:
        raise GraderError("python_grader_runtime_error", f"python grader: {said['error']}")
    return float(said["score"])
