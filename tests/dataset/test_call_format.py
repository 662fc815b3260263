"""How published templates (as TRL 1.16 carries them) write calls of tools."""

import pytest
from test_render import tokenizer_for

from tunesmith.dataset.call_format import CallFormat, call_format, shows_tools
from tunesmith.models.load import load_tokenizer

HERMES = CallFormat(
    '\n<tool_call>\n{"name": "', '", "arguments": ', "}\n</tool_call>", '}\n</tool_call>\n<tool_call>\n{"name": "'
)


@pytest.mark.parametrize("name", ["qwen2_5", "qwen3", "qwen3_instruct_2507"])
def test_a_call_in_tags_is_found_with_what_separates_several(name: str) -> None:
    tokenizer = tokenizer_for(name)
    assert call_format(tokenizer, ["<|im_end|>"]) == HERMES
    assert shows_tools(tokenizer)


def test_the_embedded_model_writes_calls_likewise() -> None:
    tokenizer = load_tokenizer("embedded")
    assert call_format(tokenizer, [tokenizer.eos_token]) == HERMES
    assert shows_tools(tokenizer)


def test_a_template_of_one_call_has_nothing_between_calls() -> None:
    form = call_format(tokenizer_for("llama3_1"), ["<|eot_id|>"])
    assert form == CallFormat('{"name": "', '", "parameters": ', "}", None)


def test_special_tokens_that_mark_a_call_are_known() -> None:
    tokenizer = tokenizer_for("deepseekv3")
    form = call_format(tokenizer, ["<｜end▁of▁sentence｜>"])  # noqa: RUF001
    assert form is not None
    assert form.between == "\n```json\n"
    assert "<｜tool▁sep｜>" in form.marks(tokenizer)  # noqa: RUF001


@pytest.mark.parametrize("name", ["qwen3_5_nothink", "gptoss", "glm4moe", "gemma4", "lfm2_2_5", "phi3"])
def test_a_call_that_could_not_be_read_back_has_no_format(name: str) -> None:
    assert call_format(tokenizer_for(name), ["<|im_end|>", "<|call|>"]) is None


@pytest.mark.parametrize("name", ["llama3", "gemma3", "phi3"])
def test_a_template_without_tools_is_told(name: str) -> None:
    assert not shows_tools(tokenizer_for(name))
