import pytest
from hypothesis import given
from hypothesis import strategies as st
from tools.tokenizer import CHAT_TEMPLATE
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from tunesmith.assets import embedded_model

TOKENIZER: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(embedded_model())


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_any_text_survives_the_round_trip(text: str) -> None:
    assert TOKENIZER.decode(TOKENIZER.encode(text, add_special_tokens=False)) == text


def test_end_of_turn_is_the_end_of_sequence_and_padding_is_another_token() -> None:
    assert TOKENIZER.eos_token == "<|im_end|>"
    assert TOKENIZER.pad_token_id not in (None, TOKENIZER.eos_token_id)


def test_digits_are_single_tokens() -> None:
    assert len(TOKENIZER.encode("4711", add_special_tokens=False)) == 4


def test_chat_template_is_the_committed_one_and_has_no_generation_markers() -> None:
    assert TOKENIZER.chat_template == CHAT_TEMPLATE
    assert "generation %}" not in CHAT_TEMPLATE


def test_chat_template_renders_turns_between_markers() -> None:
    messages = [{"role": "user", "content": "Hi."}, {"role": "assistant", "content": "Hello."}]
    assert TOKENIZER.apply_chat_template(messages, tokenize=False) == (
        "<|im_start|>user\nHi.<|im_end|>\n<|im_start|>assistant\nHello.<|im_end|>\n"
    )


@pytest.mark.parametrize("content", ["", None, "Let me see."])
def test_chat_template_renders_tools_and_their_calls(content: str | None) -> None:
    call = {"type": "function", "function": {"name": "clock", "arguments": {"city": "Rome"}}}
    messages = [
        {"role": "user", "content": "What time is it?"},
        {"role": "assistant", "content": content, "tool_calls": [call]},
    ]
    text = TOKENIZER.apply_chat_template(
        messages, tools=[{"type": "function", "function": {"name": "clock"}}], tokenize=False
    )
    assert text.startswith(
        '<|im_start|>system\nTools:\n{"type": "function", "function": {"name": "clock"}}<|im_end|>\n'
    )
    assert '<tool_call>\n{"name": "clock", "arguments": {"city": "Rome"}}\n</tool_call><|im_end|>\n' in text
