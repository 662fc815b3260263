"""`jobs download`: what a provider gives out of a finished job; weights only where it is allowed to have them."""

import io
import tarfile
from pathlib import Path, PurePosixPath

import zstandard

from tunesmith import storage
from tunesmith.errors import ProviderError, RunError
from tunesmith.providers.find import find_provider
from tunesmith.providers.state import read_state
from tunesmith.run_folder import RunFolder

_WANTED = (".safetensors", ".json", ".jinja", ".model", ".txt", ".md")
"""Endings of the files that are taken out of an archive: weights as safetensors, and text."""


def download(run: RunFolder, output: Path | None = None) -> list[Path]:
    """Write the files of the run's finished job into `output` (default: the run's `provider/`) and return their paths.

    An archive with a PEFT adapter is unpacked into the run's `adapter/`, where `evaluate`, `export` and `chat` look.
    Raises RunError when the job has not succeeded, ProviderError when it has nothing to give.
    """
    state = read_state(run)
    if state.job.status != "succeeded":
        raise RunError(
            f"{run.root}: the job has not succeeded ({state.job.status}); watch it first: tunesmith jobs watch"
        )
    folder = run.root / "provider" if output is None else output
    files = find_provider(state.provider).download(state.job.id, folder)
    if not files:
        raise ProviderError(f"{state.provider}: the job has no files to download")
    for file in files:
        if file.name.endswith(".tar.zst") and not run.adapter.exists() and unpack_adapter(file, run.adapter):
            files = [*files, run.adapter]
    return files


def download_elsewhere(provider: str, job: str, output: Path) -> list[Path]:
    """Write the files of a finished job that was not submitted from here into `output` and return their paths.

    Raises ProviderError when the job has not succeeded or has nothing to give.
    """
    place = find_provider(provider)
    status = place.retrieve(job).status
    if status != "succeeded":
        raise ProviderError(f"job {job} has not succeeded ({status}), so there is nothing to download")
    files = place.download(job, output)
    if not files:
        raise ProviderError(f"{provider}: the job has no files to download")
    return files


def unpack_adapter(archive: Path, folder: Path) -> bool:
    """Unpack a PEFT adapter from a tar.zst archive into `folder`; False, with nothing written, when it holds none.

    Only plain files with known endings are taken, under their own names: no path from the archive is followed, and
    nothing in it can be run.
    """
    members: dict[str, bytes] = {}
    with (
        archive.open("rb") as raw,
        zstandard.ZstdDecompressor().stream_reader(raw) as stream,
        tarfile.open(fileobj=io.BufferedReader(stream), mode="r|") as packed,
    ):
        for member in packed:
            name = PurePosixPath(member.name).name
            content = packed.extractfile(member) if member.isfile() and name.endswith(_WANTED) else None
            if content is not None:
                members[name] = content.read()
    if "adapter_config.json" not in members or "adapter_model.safetensors" not in members:
        return False
    with storage.atomic_folder(folder) as temporary:
        for name, data in members.items():
            (temporary / name).write_bytes(data)
    return True
