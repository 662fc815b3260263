"""The base model with the best prompt there is: what fine-tuning has to beat, and often does not.

The prompt is a text file of the person's, or the best way of asking that `tunesmith advise` found: an instruction,
with or without examples from the training rows, kept in the run folder's `advice.json`.
"""

from pathlib import Path
from typing import TypeVar

import msgspec
from msgspec import Struct

from tunesmith import storage
from tunesmith.advice.result import Advice
from tunesmith.dataset.prompting import Recipe
from tunesmith.errors import DataError, RunError, SpecError
from tunesmith.run_folder import RunFolder

_T = TypeVar("_T")


class _Advice(Struct):
    """What is read of the run's `advice.json`."""

    recipe: Recipe | None = None
    instruction: str | None = None


def best_prompt(run: RunFolder, prompt: str | None, advice: str | None = None) -> Recipe | None:
    """The text of the file `prompt`, else what `advice` found, a file that the run then keeps, else the run's own.

    Advice whose best way of asking was the plain prompt gives its instruction, so that there is one to compare with.
    Raises DataError, RunError or SpecError.
    """
    if prompt is not None and advice is not None:
        raise SpecError("--prompt and --advice: give the prompt that is to be tried, or the advice that found one")
    if prompt is not None:
        return Recipe(_text(prompt))
    if advice is not None:
        found: _Advice | Advice = _read(Path(advice), Advice)  # all of it, because the report will read the copy
        storage.write_bytes(run.advice, Path(advice).read_bytes())
    elif run.advice.is_file():
        found = _read(run.advice, _Advice)
    else:
        return None
    if found.recipe is not None and found.recipe != Recipe():
        return found.recipe
    return None if found.instruction is None else Recipe(found.instruction)


def _text(file: str) -> str:
    try:
        text = Path(file).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"--prompt {file}: cannot read: {error}; give a text file with the prompt") from error
    if not text:
        raise DataError(f"--prompt {file}: the file is empty; write the prompt into it")
    return text


def _read(file: Path, kind: type[_T]) -> _T:
    try:
        return msgspec.json.decode(file.read_bytes(), type=kind)
    except OSError as error:
        raise DataError(f"{file}: cannot read: {error.strerror}; write it with tunesmith advise --write") from error
    except msgspec.DecodeError as error:
        raise RunError(
            f"{file}: not what tunesmith advise --write keeps ({error}); give the file that it wrote, or write it anew"
        ) from error
