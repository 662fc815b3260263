"""What `export --to` can make."""

from pathlib import Path
from typing import get_args

from tunesmith.errors import SpecError
from tunesmith.exporting.gguf import OutType
from tunesmith.exporting.merge import MAX_SHARD_SIZE
from tunesmith.run_folder import RunFolder

TARGETS = ("merged", "gguf", "ollama", "adapter")


def export_to(
    run: RunFolder,
    target: str,
    output: Path | None = None,
    *,
    max_shard_size: str = MAX_SHARD_SIZE,
    outtype: str = "f16",
) -> Path:
    """Make `target` of `run` in the folder `output` and return what other programs load: a folder, or the GGUF file.

    Raises SpecError for an unknown target or outtype, and what the target's own function raises.
    """
    match target:
        case "merged":
            from tunesmith.exporting.merge import merge

            return merge(run, output, max_shard_size=max_shard_size)
        case "gguf":
            from tunesmith.exporting.gguf import write_gguf

            return write_gguf(run, output, outtype=_outtype(outtype))
        case "ollama":
            from tunesmith.exporting.ollama import write_ollama

            return write_ollama(run, output, outtype=_outtype(outtype))
        case "adapter":
            from tunesmith.exporting.adapter import write_adapter

            return write_adapter(run, output)
        case _:
            raise SpecError(f"--to {target}: not a known target; use {', '.join(TARGETS)}")


def _outtype(name: str) -> OutType:
    found: OutType | None = next((known for known in get_args(OutType) if known == name), None)
    if found is None:
        raise SpecError(f"--outtype {name}: not a known type; use {', '.join(get_args(OutType))}")
    return found
