"""Calls of tools in a reply, whole or however it comes, against formats that published templates write."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunesmith.dataset.call_format import CallFormat
from tunesmith.server.call_reader import CallReader

HERMES = CallFormat(
    '\n<tool_call>\n{"name": "', '", "arguments": ', "}\n</tool_call>", '}\n</tool_call>\n<tool_call>\n{"name": "'
)
LLAMA = CallFormat('{"name": "', '", "parameters": ', "}", None)
MISTRAL = CallFormat("[TOOL_CALLS]", "[ARGS]", "", "[TOOL_CALLS]")

TOOLS = {"get", "f.x"}

TWO = (
    'Sure.\n<tool_call>\n{"name": "get", "arguments": {"a": "}\\"{", "b": [1]}}\n</tool_call>\n'
    '<tool_call>{"name":"f.x","arguments":{}}</tool_call>\n'
)


def read(form: CallFormat, pieces: list[str], *, several: bool = True) -> tuple[str, list[tuple[str, str]]]:
    """The content and the calls of a reply that comes in pieces."""
    reader = CallReader(form, TOOLS, several=several)
    content, calls = "", list[tuple[str, str]]()
    for part in [part for piece in pieces for part in reader.feed(piece)] + reader.feed("", last=True):
        if isinstance(part, str):
            content += part
        elif part.name is not None:
            assert part.index == len(calls)
            calls.append((part.name, part.arguments))
        else:
            calls[part.index] = (calls[part.index][0], calls[part.index][1] + part.arguments)
    return content, calls


@pytest.mark.parametrize(
    ("form", "reply", "content", "calls"),
    [
        (HERMES, TWO, "Sure.", [("get", '{"a": "}\\"{", "b": [1]}'), ("f.x", "{}")]),
        (HERMES, "a < b, <tool_call> ", "a < b, <tool_call> ", []),
        (HERMES, '<tool_call>\n{"name": "get", "arguments": {"a', "", [("get", '{"a')]),
        (LLAMA, '{"name": "get", "parameters": {"x": 1}}', "", [("get", '{"x": 1}')]),
        (LLAMA, '{"name": "Bob"} ', '{"name": "Bob"} ', []),
        (MISTRAL, 'Hi[TOOL_CALLS]get[ARGS]{"a":1}[TOOL_CALLS]f.x[ARGS]{}', "Hi", [("get", '{"a":1}'), ("f.x", "{}")]),
    ],
)
def test_calls_and_content_are_told_apart(
    form: CallFormat, reply: str, content: str, calls: list[tuple[str, str]]
) -> None:
    assert read(form, [reply]) == (content, calls)


def test_a_tool_that_was_not_offered_stays_text() -> None:
    reply = '<tool_call>\n{"name": "nope", "arguments": {}}\n</tool_call>'
    assert read(HERMES, [reply]) == (reply, [])


def test_only_the_first_call_is_kept_where_only_one_is_wanted() -> None:
    assert read(HERMES, [TWO], several=False) == ("Sure.", [("get", '{"a": "}\\"{", "b": [1]}')])


WORDS = (
    *("<tool_call>", "\n", '{"name": "get', '", "arguments": ', "{}", "}", "</tool_call>", '{"', "[TOOL_CALLS]"),
    *("get", "[ARGS]", "word ", '", "parameters": ', '{"a": [1, "\\""]}', "\\", "<", " "),
)


@given(
    st.sampled_from([HERMES, LLAMA, MISTRAL]),
    st.lists(st.sampled_from(WORDS), max_size=12),
    st.lists(st.integers(1, 9), min_size=1),
)
def test_it_does_not_matter_in_which_pieces_a_reply_comes(form: CallFormat, words: list[str], cuts: list[int]) -> None:
    reply = "".join(words)
    pieces, place = list[str](), 0
    while place < len(reply):
        cut = cuts[len(pieces) % len(cuts)]
        pieces.append(reply[place : place + cut])
        place += cut
    assert read(form, pieces) == read(form, [reply])
