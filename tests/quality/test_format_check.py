"""The format check names what chat templates refuse or cannot train on, and counts one row as one."""

import pytest

from tunesmith.dataset.conversation import Conversation, Message, ToolCall
from tunesmith.quality.check import counted
from tunesmith.quality.format import role_problem, tool_problem

ASKED, SAID = Message("user", "Where is it?"), Message("assistant", "Here.")
CALL = ToolCall("find", '{"what": "it"}', "1")
RESULT = Message("tool", "here", tool_call_id="1")


def calling(*calls: ToolCall) -> Message:
    return Message("assistant", tool_calls=calls)


@pytest.mark.parametrize(
    ("messages", "problem"),
    [
        ((ASKED, Message("assistant", " "), ASKED, SAID), "says nothing"),
        ((ASKED, Message("assistant", "Here.", weight=0)), "weight 0"),
        ((ASKED, SAID, ASKED), "the last message is the user's"),
        ((ASKED, ASKED, SAID), "two user messages"),
    ],
)
def test_turns_that_cannot_be_trained_on_are_named(messages: tuple[Message, ...], problem: str) -> None:
    assert problem in str(role_problem(messages))


@pytest.mark.parametrize(
    "messages",
    [
        (ASKED, calling(CALL), RESULT, SAID),
        (ASKED, Message("assistant", "", weight=0), ASKED, SAID),
        (ASKED, Message("assistant", "", "I should ask."), ASKED, SAID),
    ],
)
def test_turns_that_act_think_or_are_not_trained_on_may_say_nothing(messages: tuple[Message, ...]) -> None:
    assert role_problem(messages) is None


@pytest.mark.parametrize(
    ("turn", "problem"),
    [
        (calling(CALL, CALL), "two calls with the id '1'"),
        (calling(ToolCall("find", "[1]", "1")), "no JSON object"),
        (calling(ToolCall("find", '{"what"', "1")), "no JSON object"),
    ],
)
def test_calls_that_do_not_fit_are_named(turn: Message, problem: str) -> None:
    assert problem in str(tool_problem(Conversation((ASKED, turn, RESULT, RESULT, SAID))))


def test_one_row_is_told_in_the_singular() -> None:
    assert counted(1, "have an empty output", whole=200) == "1 row (0.5%) has an empty output"
    assert counted(1_200, "have an empty output", whole=2_400) == "1,200 rows (50%) have an empty output"
    assert counted(1, "repeat the prompt", noun="output") == "1 output repeats the prompt"
