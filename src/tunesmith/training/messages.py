"""What a training process tells the one that started it: its events as they happen, and at the end how it went."""

from typing import Any, TypeAlias, cast

import msgspec
from msgspec import Struct

from tunesmith import errors
from tunesmith.errors import TunesmithError
from tunesmith.training.events import Event
from tunesmith.training.run import RunResult


class Finished(Struct, frozen=True, tag_field="event", tag="finished"):
    """It ended; `fields` are those of its RunResult."""

    fields: dict[str, Any]

    @classmethod
    def of(cls, result: RunResult) -> "Finished":
        """With the fields of `result`."""
        return cls(msgspec.to_builtins(result, enc_hook=lambda path: str(path)))

    def result(self) -> RunResult:
        """The RunResult."""
        return msgspec.convert(self.fields, RunResult, dec_hook=lambda kind, text: kind(text))


class Failed(Struct, frozen=True, tag_field="event", tag="failed"):
    """It could not go on: an error that a person can mend, by its class in `tunesmith.errors` and its message."""

    kind: str
    message: str

    def error(self) -> TunesmithError:
        """The error again."""
        kind = getattr(errors, self.kind, TunesmithError)
        error: TunesmithError = kind(self.message)
        return error


Message: TypeAlias = Event | Finished | Failed

_decoder = msgspec.json.Decoder(Message)


def encode(message: Message) -> bytes:
    """One line of JSON."""
    return msgspec.json.encode(message) + b"\n"


def decode(line: bytes) -> Message:
    """The message in a line that `encode` wrote."""
    return cast(Message, _decoder.decode(line))
