"""What is refused of tools because of the model's chat template."""

from types import SimpleNamespace
from typing import Any, cast

import pytest

from tunesmith.dataset.conversation import Conversation, Message, ToolCall
from tunesmith.dataset.render import Renderer
from tunesmith.models.load import load_tokenizer
from tunesmith.server.api.tools import Tool, check_written, tool_use
from tunesmith.server.errors import RequestError

TOOLS = [Tool.model_validate({"type": "function", "function": {"name": "f"}})]

PLAIN = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"


def generator(**facts: Any) -> Any:
    return cast(Any, SimpleNamespace(**facts))


def test_a_template_without_tools_is_said_to_have_none() -> None:
    with pytest.raises(RequestError, match="has no tools") as error:
        tool_use(generator(shows_tools=False), TOOLS, None, parallel=None)
    assert (error.value.param, error.value.code) == ("tools", "unsupported_value")


def test_calls_in_an_unreadable_form_may_only_come_as_text() -> None:
    unreadable = generator(shows_tools=True, call_format=None)
    assert tool_use(unreadable, TOOLS, "none", parallel=None) is None
    with pytest.raises(RequestError, match="tool_choice"):
        tool_use(unreadable, TOOLS, "auto", parallel=None)


@pytest.mark.parametrize("lost", [0, 1])
def test_a_template_that_leaves_out_calls_or_results_is_told_by_the_message(lost: int) -> None:
    tokenizer = load_tokenizer("embedded")
    call = Message("assistant", tool_calls=(ToolCall("f", "{}", "c"),))
    messages = [call, Message("tool", "12", tool_call_id="c")]
    row = Conversation(messages=(Message("user", "?"), *messages), completion_start=3)
    check_written(Renderer(tokenizer), row)
    if lost == 0:
        tokenizer.chat_template = PLAIN
    else:
        tokenizer.chat_template = tokenizer.chat_template.replace(
            "{%- for message in messages %}", "{%- for message in messages if message.role != 'tool' %}"
        )
    with pytest.raises(RequestError) as error:
        check_written(Renderer(tokenizer), row)
    assert error.value.param == f"messages[{lost + 1}]"
