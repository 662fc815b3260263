"""The base model with the best prompt there is: what fine-tuning has to beat, and often does not.

The prompt is a text file of the person's, or the instruction that `tunesmith advise` measured and left in the run
folder's `advice.json`.
"""

from pathlib import Path

import msgspec
from msgspec import Struct

from tunesmith.dataset.conversation import Conversation, Message
from tunesmith.errors import DataError, RunError
from tunesmith.run_folder import RunFolder


class _Advice(Struct):
    """What is read of `advice.json`."""

    instruction: str | None = None


def best_prompt(run: RunFolder, file: str | None) -> str | None:
    """The text of `file`, else the advised instruction, else None. Raises DataError or RunError."""
    if file is not None:
        try:
            text = Path(file).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"--prompt {file}: cannot read: {error}; give a text file with the prompt") from error
        if not text:
            raise DataError(f"--prompt {file}: the file is empty; write the prompt into it")
        return text
    advice = run.root / "advice.json"
    if not advice.is_file():
        return None
    try:
        return msgspec.json.decode(advice.read_bytes(), type=_Advice).instruction
    except msgspec.DecodeError as error:
        raise RunError(
            f"{advice}: cannot be read ({error}); remove it or write it anew with tunesmith advise"
        ) from error


def with_prompt(row: Conversation, prompt: str) -> Conversation:
    """`row` with `prompt` at the end of its system message, or before its first user turn where it has none.

    Not in a system message of its own: several chat templates refuse a role that the data does not use.
    """
    for index, message in enumerate(row.messages):
        if message.role in ("system", "developer"):
            return _replace(row, index, f"{message.content}\n\n{prompt}")
        if message.role == "user":
            return _replace(row, index, f"{prompt}\n\n{message.content}")
    return row


def shown_prompt(messages: tuple[Message, ...]) -> str:
    """The prompt as people read it: a single turn as it is, several with their roles."""
    if len(messages) == 1:
        return messages[0].content
    return "\n\n".join(f"{message.role}: {message.content}" for message in messages)


def _replace(row: Conversation, index: int, content: str) -> Conversation:
    messages: list[Message] = list(row.messages)
    messages[index] = msgspec.structs.replace(messages[index], content=content)
    return msgspec.structs.replace(row, messages=tuple(messages))
