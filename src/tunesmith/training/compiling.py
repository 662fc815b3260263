"""C code compiled for the processor at hand when it is first needed, and kept in the cache folder.

An entry's name is made of the code's text, the compiler's flags and the processor, not of the compiler: a resumed run
finds what it began with. It takes a second once; what TorchInductor would do here costs more than a second of every
start, for kernels that are slower. Two processes that compile at once do so under temporary names.
"""

import ctypes
import logging
import platform
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tunesmith import cache

log = logging.getLogger(__name__)

COMPILERS = ("gcc", "cc", "clang")

FLAGS = (
    "-O3",
    "-mcpu=native" if platform.machine() in ("arm64", "aarch64") else "-march=native",
    "-fno-math-errno",
    "-fno-trapping-math",
    # Torch brings gcc's library for threads, and so its own threads serve; Apple's compiler has none.
    "-fopenmp" if sys.platform == "linux" else "-fopenmp-simd",
    "-shared",
    "-fPIC",
)

LONGEST_SECONDS = 60.0

PROCESSOR = ("vendor_id", "cpu family", "model", "flags", "CPU implementer", "CPU part", "Features")
"""Lines of Linux's /proc/cpuinfo that say what `native` stands for."""


def compiled(sources: Sequence[Path], defined: Sequence[str]) -> ctypes.CDLL | None:
    """The library made of `sources`, with what they include, and the macros `defined`; None where it cannot be made."""
    flags = (*FLAGS, *(f"-D{macro}" for macro in defined))
    path = cache.entry(
        "kernels", f"{cache.digest(*(source.read_bytes() for source in sources), *flags, _processor())}.so"
    )
    try:
        if not path.exists():
            compiler = _compiler()
            cache.keep(path, lambda temporary: _compile(compiler, flags, sources, temporary))
        return ctypes.CDLL(str(path))
    except (OSError, subprocess.SubprocessError) as error:
        log.info("%s is not compiled, which costs nothing but time: %s", sources[0].name, error)
        return None


def _compiler() -> str:
    for name in COMPILERS:
        if (found := shutil.which(name)) is not None:
            return found
    raise FileNotFoundError(f"none of {', '.join(COMPILERS)} is installed")


def _compile(compiler: str, flags: Sequence[str], sources: Sequence[Path], path: Path) -> None:
    code = [str(source) for source in sources if source.suffix == ".c"]
    command = [compiler, *flags, *code, "-o", str(path), "-lm"]
    subprocess.run(command, check=True, capture_output=True, timeout=LONGEST_SECONDS)  # noqa: S603  # our own file


def _processor() -> str:
    try:
        with Path("/proc/cpuinfo").open() as file:
            first = list(iter(file.readline, "\n"))
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    return "".join(line for line in first if line.split("\t")[0].rstrip(" :") in PROCESSOR)
