"""Chat rows that come straight from the decoder are what the parser of their format makes of them."""

import json

import msgspec
from hypothesis import example, given
from hypothesis import strategies as st

from tunesmith.dataset.formats import detect, openai
from tunesmith.dataset.formats.fields import Problems

TURNS = st.dictionaries(
    st.sampled_from(["role", "role", "content", "content", "weight", "name", "tool_calls", "thinking"]),
    st.one_of(st.sampled_from(["user", "assistant", "system", "tool"]), st.text(max_size=5), st.none(), st.just([])),
    min_size=1,
    max_size=3,
)
PLAIN_TURNS = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "assistant", "system", "developer", "tool"]), "content": st.text(max_size=5)}
)
ROWS = st.builds(
    lambda turns, more: {"messages": turns} | more,
    st.lists(st.one_of(PLAIN_TURNS, PLAIN_TURNS, TURNS), max_size=4),
    st.sampled_from([{}, {}, {}, {"label": "a"}, {"tools": []}, {"system": "s"}, {"chosen": "a", "rejected": "b"}]),
)
USER = {"role": "user", "content": "q"}


@given(ROWS, st.booleans(), st.sampled_from(["", "\r", " "]))
@example({"messages": [USER, {"role": "assistant", "content": "caf\u00e9 \u2028"}]}, False, "")
@example({"messages": [USER]}, True, "")
@example({"messages": []}, True, "")
def test_a_plain_row_is_read_as_by_its_format(row: dict[str, object], escaped: bool, end: str) -> None:
    line = (json.dumps(row, ensure_ascii=escaped) + end).encode("utf-8", "surrogatepass")
    messages = openai.read_plain(line)
    if messages is None:
        return

    problems: Problems = []
    value = msgspec.json.decode(line.decode())
    assert detect(value) == "openai"
    whole = openai.read(value, problems)
    assert not problems
    assert whole.messages == messages
    assert whole == openai.Conversation(messages)


def test_plain_rows_are_not_read_twice() -> None:
    chat = {"messages": [USER, {"role": "assistant", "content": "a"}]}
    assert openai.read_plain(json.dumps(chat).encode()) is not None
    assert openai.read_plain(json.dumps(chat, separators=(",", ":")).encode() + b"\r") is not None
    named = {"messages": [USER | {"name": "Ann"}, {"role": "assistant", "content": "a"}]}
    assert openai.read_plain(json.dumps(named).encode()) is None


def test_of_a_key_that_is_there_twice_the_last_counts() -> None:
    line = b'{"messages": [], "messages": [{"role": "user", "role": "assistant", "content": "a", "content": "b"}]}'
    messages = openai.read_plain(line)
    assert messages == openai.read(msgspec.json.decode(line), []).messages
    assert messages is not None
    assert messages[0].content == "b"
