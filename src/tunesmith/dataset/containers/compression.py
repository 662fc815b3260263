"""Files as streams of bytes, plain, .gz or .zst: the last ending of the name chooses."""

import contextlib
import gzip
import io
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, cast

from tunesmith.errors import DataError

COMPRESSIONS = (".gz", ".zst")

READ_TOGETHER = 1 << 17
"""Bytes asked for at once: with Python's 8,192, asking takes longer than finding where lines end."""


def content_ending(name: str) -> str:
    """The ending of a file name that says what the file holds, in lower case: `.csv` for `rows.CSV.gz`."""
    suffixes = [suffix.lower() for suffix in Path(name).suffixes]
    if suffixes and suffixes[-1] in COMPRESSIONS:
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


@contextlib.contextmanager
def open_to_read(path: str | Path) -> Iterator[IO[bytes]]:
    """The file's bytes, decompressed; `-` is standard input. Raises DataError when it cannot be opened."""
    if str(path) == "-":
        yield sys.stdin.buffer
        return
    file = Path(path)
    try:
        raw = file.open("rb", READ_TOGETHER)
    except OSError as error:
        raise DataError(f"{path}: cannot read: {error.strerror}") from error
    with raw:
        match file.suffix.lower():
            case ".gz":
                yield cast(IO[bytes], gzip.GzipFile(fileobj=raw))
            case ".zst":
                import zstandard

                yield io.BufferedReader(zstandard.ZstdDecompressor().stream_reader(raw, read_across_frames=True))
            case _:
                yield raw


@contextlib.contextmanager
def open_to_write(path: Path, compression: str) -> Iterator[IO[bytes]]:
    """A stream into the file at `path`, compressed as the ending `compression` says."""
    with path.open("wb") as raw:
        match compression:
            case ".gz":
                # No time stamp and no name inside: the same rows give the same bytes.
                with gzip.GzipFile(filename="", fileobj=raw, mode="wb", mtime=0) as stream:
                    yield cast(IO[bytes], stream)
            case ".zst":
                import zstandard

                with zstandard.ZstdCompressor().stream_writer(raw, closefd=False) as writer:
                    yield cast(IO[bytes], writer)
            case _:
                yield raw


def lines(stream: IO[bytes]) -> Iterator[bytes | Exception]:
    """Lines; an exception in place of the rest when the compressed stream breaks off."""
    while True:
        try:
            line = stream.readline()
        except Exception as error:  # noqa: BLE001  # each decompressor raises its own
            yield error
            return
        if not line:
            return
        yield line
