from hypothesis import given
from hypothesis import strategies as st

from tunesmith.dataset.conversation import Conversation, Message, ToolCall
from tunesmith.quality.redact import redact, redact_text


def contents(row: Conversation) -> list[str]:
    return [message.content for message in row.messages]


def test_the_same_person_keeps_one_placeholder_through_the_row() -> None:
    row = Conversation(
        messages=(
            Message("user", "I am Bob@example.com, write to bob@example.com and ann@example.com"),
            Message("assistant", "I wrote to ann@example.com"),
        )
    )
    assert contents(redact(row).row) == [
        "I am <EMAIL_1>, write to <EMAIL_1> and <EMAIL_2>",
        "I wrote to <EMAIL_2>",
    ]
    assert redact(row).found == {"EMAIL": 4}


def test_one_number_written_in_two_ways_is_one_placeholder() -> None:
    row = Conversation(text="(415) 555-2671, that is 415-555-2671")
    assert redact(row).row.text == "<PHONE_1>, that is <PHONE_1>"


def test_new_placeholders_are_numbered_after_those_already_there() -> None:
    row = Conversation(text="<EMAIL_3> wrote to bob@example.com")
    assert redact(row).row.text == "<EMAIL_3> wrote to <EMAIL_4>"


def test_tool_arguments_stay_json_when_a_number_is_replaced() -> None:
    call = ToolCall("pay", '{"card": 4111111111111111, "amount": 12.5}')
    redacted = redact(Conversation(messages=(Message("assistant", tool_calls=(call,)),))).row
    assert redacted.messages[0].tool_calls[0].arguments == '{"card": "<CREDIT_CARD_1>", "amount": 12.5}'


def test_a_key_says_what_its_value_is() -> None:
    row = Conversation(metadata={"ssn": "536228726", "id": 536228726, "lists": ["bob@example.com"]})
    assert redact(row).row.metadata == {"ssn": "<US_SSN_1>", "id": 536228726, "lists": ["<EMAIL_1>"]}


def test_the_rejected_reply_is_redacted_too() -> None:
    row = Conversation(messages=(Message("user", "hi"),), rejected=(Message("assistant", "bob@example.com"),))
    assert redact(row).row.rejected[0].content == "<EMAIL_1>"


def test_a_row_without_personal_data_is_returned_as_it_is() -> None:
    row = Conversation(messages=(Message("user", "hello"), Message("assistant", "hi")))
    assert redact(row).row is row


@given(
    st.lists(
        st.sampled_from(
            [
                "phone ",
                "call me ",
                "4111 1111 1111 1111",
                " bob@example.com ",
                "5551234567",
                "born ",
                "5 May 1990",
                "\n",
                "+44 20 7946 0958",
                "sk-abc123DEF456ghi789JKL012",
                "token ",
                "83.12.44.19",
                ", ",
                "order ",
                "passport X1234567",
            ]
        ),
        max_size=8,
    )
)
def test_redacting_again_changes_nothing(pieces: list[str]) -> None:
    once = redact_text("".join(pieces))
    assert redact_text(once) == once


def test_other_fields_of_messages_are_redacted_too() -> None:
    row = Conversation((Message("user", "a", extra={"email": "ada@example.com"}), Message("assistant", "b")))

    assert redact(row).row.messages[0].extra == {"email": "<EMAIL_1>"}
