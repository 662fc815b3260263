"""The rows of the files as checks read them back: texts in a spill file, places in small arrays.

The pass writes each row's input and output once, so a check may look at any row again (a random sample, both sides of
a near-duplicate pair) while memory holds about 32 bytes a row. The cost is the text's size on the temporary disk.
"""

import itertools
import os
import tempfile
from array import array
from collections.abc import Iterable, Sequence
from typing import overload

import numpy as np

from tunesmith.dataset.conversation import Conversation
from tunesmith.dataset.neardup import LazyTexts
from tunesmith.quality.check import RowTexts, context_hash, row_texts


class SpilledTexts(Sequence[str]):
    """Append-only texts in a temporary file, which vanishes with the object."""

    def __init__(self) -> None:
        # Unlinked at once by the operating system where it can, so a killed process leaves nothing behind.
        self._file = tempfile.TemporaryFile(prefix="tunesmith-")  # noqa: SIM115
        self._ends = array("q", [0])
        self._unwritten = False

    def extend(self, texts: Iterable[str]) -> None:
        """Append `texts`."""
        encoded = [text.encode("utf-8", "surrogatepass") for text in texts]
        end = self._ends[-1]
        for text in encoded:
            end += len(text)
            self._ends.append(end)
        self._file.write(b"".join(encoded))
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
        texts = [row_texts(row) for row in conversations]
        self._inputs.extend(input_text for input_text, _ in texts)
        self._outputs.extend(output_text for _, output_text in texts)
        for row in conversations:
            source = row.source
            self._contexts.append(context_hash(row))
            self._label_of.append(self._labels.setdefault(row.label or "", len(self._labels)))
            self._file_of.append(self._files.setdefault(source.file if source else "", len(self._files)))
            self._lines.append(source.line if source else len(self._lines) + 1)

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
