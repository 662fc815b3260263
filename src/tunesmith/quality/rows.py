"""The rows of the files as checks read them back: texts in a spill file, places in small arrays.

The pass writes each row's input and output once, so a check may look at any row again (a random sample, both sides of
a near-duplicate pair) while memory holds about 32 bytes a row. The cost is the text's size on the temporary disk.
"""

import itertools
import os
import tempfile
from array import array
from collections.abc import Sequence
from typing import overload

import numpy as np
from msgspec import Struct

from tunesmith.dataset.conversation import Conversation, Source
from tunesmith.dataset.neardup import LazyTexts
from tunesmith.quality.check import Row, RowTexts, context_hash, row_texts

NOWHERE = Source("", 0, "")


class SpilledTexts(Sequence[str]):
    """Append-only texts in a temporary file, which vanishes with the object."""

    def __init__(self) -> None:
        # Unlinked at once by the operating system where it can, so a killed process leaves nothing behind.
        self._file = tempfile.TemporaryFile(prefix="tunesmith-")  # noqa: SIM115
        self._ends = array("q", [0])
        self._unwritten = False

    def extend(self, texts: "Texts") -> None:
        """Append `texts`."""
        ends = self._ends[-1] + np.cumsum(np.asarray(texts.lengths, np.int64))
        self._ends.frombytes(ends.tobytes())
        self._file.write(texts.encoded)
        self._unwritten = True

    def flush(self) -> None:
        """Put all texts on the disk; a process forked before that would hold some of them in a buffer of its own."""
        self._file.flush()
        self._unwritten = False

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[str]: ...
    def __getitem__(self, index: int | slice) -> str | Sequence[str]:
        if isinstance(index, slice):
            start, stop, step = index.indices(len(self))
            if step != 1:
                return [self[position] for position in range(start, stop, step)]
            ends = self._ends[start : max(stop, start) + 1]
            block, base = self._bytes(ends[0], ends[-1]), ends[0]
            return [
                block[begin - base : end - base].decode("utf-8", "surrogatepass")
                for begin, end in itertools.pairwise(ends)
            ]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        index %= len(self)
        return self._bytes(self._ends[index], self._ends[index + 1]).decode("utf-8", "surrogatepass")

    def _bytes(self, start: int, end: int) -> bytes:
        if self._unwritten:
            self.flush()
        if hasattr(os, "pread"):  # reads at a place of its own, so that forked workers do not disturb each other
            return os.pread(self._file.fileno(), end - start, start)
        self._file.seek(start)
        block = self._file.read(end - start)
        self._file.seek(0, os.SEEK_END)
        return block


class Texts(Struct, frozen=True):
    """Texts encoded one after another, and the bytes of each."""

    encoded: bytes
    lengths: "array[int]"


class RowBatch(Struct, frozen=True):
    """Rows as they are kept: what a process that reads rows sends to the one that gathers them."""

    inputs: Texts
    outputs: Texts
    contexts: "array[int]"
    labels: list[str]
    files: list[str]
    lines: "array[int]"


def row_batch(rows: Sequence[Row]) -> RowBatch:
    """What is kept of `rows`; a row that comes from no file has line 0."""
    conversations = [row.conversation for row in rows]
    sources = [conversation.source or NOWHERE for conversation in conversations]
    return RowBatch(
        _encoded([row.input for row in rows]),
        _encoded([row.output for row in rows]),
        array("I", map(context_hash, conversations)),
        [conversation.label or "" for conversation in conversations],
        [source.file for source in sources],
        array("I", [source.line for source in sources]),
    )


def _encoded(texts: Sequence[str]) -> Texts:
    encoded = [text.encode("utf-8", "surrogatepass") for text in texts]
    return Texts(b"".join(encoded), array("Q", map(len, encoded)))


class RowWriter:
    """Gathers rows during the pass; `rows()` is what the judgements read."""

    def __init__(self) -> None:
        self._inputs = SpilledTexts()
        self._outputs = SpilledTexts()
        self._contexts = array("I")
        self._labels: dict[str, int] = {}
        self._label_of = array("I")
        self._files: dict[str, int] = {}
        self._file_of = array("i")
        self._lines = array("I")

    def extend(self, conversations: Sequence[Conversation]) -> None:
        """Append rows."""
        self.append(row_batch([Row(0, conversation, *row_texts(conversation)) for conversation in conversations]))

    def append(self, batch: RowBatch) -> None:
        """Append the rows of `batch`."""
        self._inputs.extend(batch.inputs)
        self._outputs.extend(batch.outputs)
        self._contexts.extend(batch.contexts)
        self._label_of.extend([self._labels.setdefault(label, len(self._labels)) for label in batch.labels])
        self._file_of.extend([self._files.setdefault(file, len(self._files)) for file in batch.files])
        self._lines.extend(batch.lines)

    def rows(self) -> RowTexts:
        """All rows gathered."""
        for texts in (self._inputs, self._outputs):
            texts.flush()
        labels, label_of = tuple(self._labels), self._label_of
        return RowTexts(
            inputs=self._inputs,
            outputs=self._outputs,
            contexts=np.asarray(self._contexts, np.uint32),
            labels=LazyTexts(len(label_of), lambda index: labels[label_of[index]]),
            files=tuple(self._files),
            file_of=np.asarray(self._file_of, np.int32),
            lines=np.asarray(self._lines, np.uint32),
        )
