"""Rows as a provider wants them: what its format has no place for is left out, and said."""

import json

from tunesmith.dataset.conversation import Conversation, Message
from tunesmith.providers.data import prepare
from tunesmith.providers.protocol import Rules

RULES = Rules("a provider", 1, 2**20, None, ("user", "assistant"), "its documentation")


def test_what_the_format_has_no_field_for_is_left_out_and_counted() -> None:
    reply = Message("assistant", "Yes.", thinking="Hm.", extra={"cache_control": {"type": "ephemeral"}})
    row = Conversation(messages=(Message("user", "Is it?", extra={"id": 7}), reply))
    prepared = prepare([row], RULES, "supervised", model="gpt-4o-mini", minimum=1)
    assert json.loads(prepared.content) == {
        "messages": [{"role": "user", "content": "Is it?"}, {"role": "assistant", "content": "Yes."}]
    }
    assert prepared.notes == (
        "1 row: reasoning left out, which the format does not carry",
        "1 row: fields of messages left out that the format does not have",
    )
