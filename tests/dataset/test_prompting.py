from tunesmith.dataset.conversation import Conversation, Message, ToolCall
from tunesmith.dataset.prompting import (
    Examples,
    Recipe,
    asked_by,
    reference,
    with_examples,
    with_instruction,
    with_passages,
)

USER, SYSTEM = Message("user", "Which?"), Message("system", "Sort.")


def shown(user: str, answer: str) -> Conversation:
    return Conversation((Message("user", user), Message("assistant", answer)))


def test_the_instruction_goes_into_the_system_message_or_before_the_question() -> None:
    assert with_instruction((SYSTEM, USER), "Say a.") == (Message("system", "Sort.\n\nSay a."), USER)
    assert with_instruction((USER,), "Say a.") == (Message("user", "Say a.\n\nWhich?"),)


def test_advise_and_evaluate_put_an_instruction_at_the_head_of_a_conversation_of_two_turns() -> None:
    row = Conversation(
        (USER, Message("assistant", "The red one."), Message("user", "Why?"), Message("assistant", "So."))
    )
    asked = with_instruction(row.prompt, "Be brief.")
    assert [message.content for message in asked] == ["Be brief.\n\nWhich?", "The red one.", "Why?"]
    assert asked_by(row, Recipe("Be brief."), []).prompt == asked


def test_a_row_asked_by_a_recipe_is_judged_on_what_it_was_judged_on() -> None:
    row = Conversation((SYSTEM, USER, Message("assistant", "Red.")), completion_start=2)
    asked = asked_by(row, Recipe("Be brief.", 2), [shown("a", "1"), shown("b", "2")])
    assert asked.completion == row.completion
    assert [message.content for message in asked.prompt] == ["Sort.\n\nBe brief.", "a", "1", "b", "2", "Which?"]
    trained = [m.content for m in asked.messages if m.role == "assistant" and m.weight != 0]
    assert trained == ["Red."]


def test_examples_are_those_most_like_the_question_the_nearest_last() -> None:
    find = Examples([shown("a kettle", "1"), shown("a blue lamp", "2"), shown("a red lamp", "3")])
    assert [reference(row) for row in find(shown("the red lamp", ""), 2)] == ["2", "3"]
    assert Examples([])(shown("the red lamp", ""), 2) == []


def test_examples_are_turns_between_the_system_message_and_the_question() -> None:
    examples = [Conversation((SYSTEM, *shown(text, "A").messages)) for text in "ab"]
    roles = [message.role for message in with_examples((SYSTEM, USER), examples)]
    assert roles == ["system", "user", "assistant", "user", "assistant", "user"]


def test_passages_stand_before_the_question() -> None:
    asked = with_passages((SYSTEM, USER), ["first", "second"])
    assert asked[-1].content.endswith("first\n\nsecond\n\nWhich?")
    assert with_passages((SYSTEM, USER), []) == (SYSTEM, USER)


def test_a_row_of_tool_calls_or_plain_text_has_no_reference() -> None:
    assert reference(shown("a", "b")) == "b"
    assert reference(Conversation((USER, Message("assistant", tool_calls=(ToolCall("find", "{}"),))))) == ""
    assert reference(Conversation(text="abc")) == ""
