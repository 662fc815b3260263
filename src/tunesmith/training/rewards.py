"""Where an online objective's rewards come from: a Python function, or the model of a `reward` run.

A function is called as TRL calls one, with keyword arguments: `prompts` and `completions` (texts), and the rows' other
columns as lists, of which it may name those it wants; it returns a number per completion, or None for one that it does
not judge. It is the user's code, so whatever it raises stops the run with its own words and place.
"""

import importlib
import importlib.util
import inspect
import math
import reprlib
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from tunesmith.dataset.conversation import Conversation, Message
from tunesmith.dataset.render import Renderer
from tunesmith.errors import SpecError, TrainingError
from tunesmith.run_folder import RunFolder, open_run
from tunesmith.spec import RewardSpec
from tunesmith.training.batches import Row

if TYPE_CHECKING:
    import torch


class RewardSource(Protocol):
    """Says how good replies are."""

    def score(self, rows: Sequence[Conversation], replies: Sequence[str]) -> list[float]:
        """A number for each reply to the prompt of each row, NaN where it has none. Raises TrainingError."""
        ...


@dataclass(frozen=True)
class Given:
    """What a reply was given: `total`, and by each source its part, before weights; NaN where it was not judged."""

    total: float
    parts: Mapping[str, float]


class Rewards:
    """Sources of rewards by their names: a reply is given the weighted sum of those that judge it, as in TRL."""

    def __init__(self, sources: Mapping[str, RewardSource], weights: Sequence[float] | None = None) -> None:
        self._sources = sources
        self._weights = [1.0] * len(sources) if weights is None else weights

    def give(self, rows: Sequence[Conversation], replies: Sequence[str]) -> list[Given]:
        """For each reply to the prompt of each row. Raises TrainingError when there is nothing to give."""
        found = zip(*(source.score(rows, replies) for source in self._sources.values()), strict=True)
        return [self._summed(dict(zip(self._sources, parts, strict=True))) for parts in found]

    def _summed(self, parts: Mapping[str, float]) -> Given:
        weighted = zip(self._weights, parts.values(), strict=True)
        judged = [weight * part for weight, part in weighted if not math.isnan(part)]
        return Given(sum(judged) if judged else math.nan, parts)


def reward_names(rewards: Sequence[str]) -> list[str]:
    """Short names for what `objective.reward` lists: of the function or folder, where no two are alike."""
    short = [Path(reward).name.rpartition(":")[2] for reward in rewards]
    return [name if short.count(name) == 1 else reward for name, reward in zip(short, rewards, strict=True)]


def open_reward(reward: str) -> "RunFolder | FunctionReward":
    """What `objective.reward` names, as far as that can be told without loading a model. Raises SpecError, RunError."""
    if Path(reward).is_dir():
        run = open_run(reward)
        if not isinstance(run.load_spec().objective, RewardSpec):
            raise SpecError(f"objective.reward: {reward} is not a run with objective.kind: reward")
        return run
    return FunctionReward(reward, _import(reward))


class FunctionReward:
    """A Python function as the source of rewards."""

    def __init__(self, name: str, function: Callable[..., Any]) -> None:
        self._name = name
        self._function = function
        parameters = inspect.signature(function).parameters.values()
        self._wants_all = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters)
        self._wanted = {parameter.name for parameter in parameters}

    def score(self, rows: Sequence[Conversation], replies: Sequence[str]) -> list[float]:
        """What the function returns."""
        given = {"prompts": [_asked(row) for row in rows], "completions": list(replies), **columns(rows)}
        try:
            returned = self._function(
                **{key: value for key, value in given.items() if self._wants_all or key in self._wanted}
            )
        except (Exception, SystemExit, KeyboardInterrupt) as error:  # interrupted where it hangs, it must be told, too
            place = traceback.extract_tb(error.__traceback__)[-1]
            said = f"{type(error).__name__}: {' '.join(str(error).split())}".removesuffix(": ")
            raise TrainingError(
                f"the reward function {self._name} raised {said} "
                f"({place.filename}:{place.lineno}); mend it and go on with --resume"
            ) from error
        return self._numbers(returned, len(replies))

    def _numbers(self, returned: Any, expected: int) -> list[float]:
        try:
            values = [] if isinstance(returned, str | bytes | Mapping) else list(returned)
            numbers = [None if value is None else float(value) for value in values]
        except (TypeError, ValueError):
            numbers = []
        if len(numbers) != expected or not all(number is None or math.isfinite(number) for number in numbers):
            raise TrainingError(
                f"the reward function {self._name} must return a list of {expected} finite numbers, one per "
                f"completion (None: not judged), and returned {reprlib.repr(returned)}; mend it and go on with --resume"
            )
        return [math.nan if number is None else number for number in numbers]


class ModelReward:
    """A trained reward model as the source; it reads prompt and reply through its own tokenizer and template."""

    def __init__(self, run: RunFolder, *, dtype: "torch.dtype", device: "torch.device") -> None:
        from tunesmith.models.load import load_reward_model, load_tokenizer
        from tunesmith.training.scores import Scores

        spec = run.load_spec()
        self._renderer = Renderer(load_tokenizer(spec.model))
        self._max_length = spec.training.max_length
        self._scores = Scores(load_reward_model(run, dtype=dtype, device=device))

    def score(self, rows: Sequence[Conversation], replies: Sequence[str]) -> list[float]:
        """The model's scores."""
        said = [
            msgspec.structs.replace(
                row, messages=(*row.prompt, Message("assistant", reply)), completion_start=len(row.prompt)
            )
            for row, reply in zip(rows, replies, strict=True)
        ]
        rendered = self._renderer.render_many(said, max_length=self._max_length)
        return self._scores.of_rows([Row(row.tokens, row.supervised) for row in rendered])


def _import(reward: str) -> Callable[..., Any]:
    place, _, name = reward.rpartition(":")
    if not place:
        raise SpecError(
            f"objective.reward: {reward} is neither the folder of a reward run, nor path.py:function, "
            "nor module:function"
        )
    try:
        module = _load_file(Path(place)) if place.endswith(".py") else _load_module(place)
    except Exception as error:
        raise SpecError(f"objective.reward: cannot import {place}: {type(error).__name__}: {error}") from error
    function = getattr(module, name, None)
    if not callable(function):
        raise SpecError(f"objective.reward: {place} has no function `{name}`")
    return function  # type: ignore[no-any-return]  # callable() does not say what it returns


def _load_file(path: Path) -> ModuleType:
    specification = importlib.util.spec_from_file_location(path.stem, path)
    if specification is None or specification.loader is None:
        raise ImportError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(specification)
    sys.modules.setdefault(path.stem, module)  # where dataclasses and pickle look a class's module up
    with _findable(path.resolve().parent):
        specification.loader.exec_module(module)
    return module


def _load_module(name: str) -> ModuleType:
    with _findable(Path.cwd()):
        return importlib.import_module(name)


@contextmanager
def _findable(folder: Path) -> Iterator[None]:
    """What lies in `folder` can be imported, as it can by a script there."""
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))


def _asked(row: Conversation) -> str:
    if len(row.prompt) == 1:
        return row.prompt[0].content
    return "\n\n".join(f"{message.role}: {message.content}" for message in row.prompt)


def columns(rows: Sequence[Conversation]) -> dict[str, list[Any]]:
    """What a function may name beside prompts and completions.

    `reference` (the reply in the row), `label`, and every other column that some row has.
    """
    names = dict.fromkeys(name for row in rows for name in row.metadata)
    found: dict[str, list[Any]] = {name: [row.metadata.get(name) for row in rows] for name in names}
    found["label"] = [row.label for row in rows]
    found["reference"] = [row.completion[-1].content if row.completion else None for row in rows]
    return found
