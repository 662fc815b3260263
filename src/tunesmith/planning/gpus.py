"""The GPUs that a plan can be made for, by name, from `gpus.toml`."""

import difflib
import re
from functools import cache
from importlib.resources import files

import msgspec
from msgspec import Struct

from tunesmith.errors import SpecError


class Gpu(Struct, frozen=True):
    """`memory` in GiB, `tflops` dense bf16 (fp32 where it has no `bf16`).

    `usd_per_hour` is there where a list price of the date `as_of` is known.
    """

    name: str
    memory: float
    tflops: float
    bf16: bool = True
    usd_per_hour: float | None = None
    as_of: str | None = None


class _Table(Struct, frozen=True):
    gpu: tuple[Gpu, ...]


@cache
def known_gpus() -> tuple[Gpu, ...]:
    """Every GPU of the table, smallest memory first."""
    table = files("tunesmith.planning").joinpath("gpus.toml").read_bytes()
    return tuple(sorted(msgspec.toml.decode(table, type=_Table).gpu, key=lambda gpu: gpu.memory))


def find_gpu(name: str, given_by: str = "--gpu") -> Gpu:
    """The GPU that `name` means: its words in any case and order (`h100`, `a100-80gb`, `rtx4090`, `A100 80G`).

    Raises SpecError, which says what it was `given_by`, when no GPU or more than one is meant.
    """
    words = _words(name)
    meant = [gpu for gpu in known_gpus() if words and words <= _words(gpu.name)]
    if len(meant) == 1:
        return meant[0]
    names = [gpu.name for gpu in known_gpus()]
    if meant:
        raise SpecError(f"{given_by} {name}: which one? {', '.join(gpu.name for gpu in meant)}")
    close = difflib.get_close_matches(name.upper(), names, n=1)
    hint = f"did you mean `{close[0]}`? Known" if close else "known"
    raise SpecError(f"{given_by} {name}: not a known GPU; {hint}: {', '.join(names)}")


def _words(name: str) -> set[str]:
    plain = re.sub(r"(\d+)\s*gi?b?\b", r"\1gb", name.lower())  # its memory
    plain = re.sub(r"\b(rtx|gtx)(?=\d)", r"\1 ", plain)
    return set(re.findall(r"\d+gb|[a-z0-9]+", plain)) - {"nvidia", "amd", "geforce", "tesla", "pcie", "sxm"}
