"""The system prompt that a run's rows share: a model behaves as it was taught only under the one it was taught with."""

from pathlib import Path

from tunesmith.dataset.conversation import Conversation
from tunesmith.dataset.read import read
from tunesmith.run_folder import RunFolder


def shared_system_prompt(run: RunFolder) -> str | None:
    """The system prompt of the run's rows, when all of them have the same; None when they do not, or are gone."""
    path = run.holdout if run.holdout.is_file() else Path(run.load_spec().data.train)
    if not path.is_file():
        return None
    prompts: set[str | None] = set()
    for row in read(path):
        if isinstance(row, Conversation):
            first = row.messages[0] if row.messages else None
            prompts.add(first.content if first is not None and first.role == "system" else None)
            if len(prompts) > 1:
                return None
    return next(iter(prompts), None)
