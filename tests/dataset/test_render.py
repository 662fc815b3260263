"""The loss mask against the stock templates of the field, which TRL's package carries (trl 1.16)."""

import datetime
import importlib.resources
import re
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AddedToken, AutoTokenizer, PreTrainedTokenizerBase

from tunesmith.assets import embedded_model
from tunesmith.dataset.conversation import Conversation, Message, Source, ToolCall
from tunesmith.dataset.render import Renderer
from tunesmith.errors import DataError, ModelError

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
PLAIN = (
    "{% for message in messages %}### {{ message.role }}:\n{{ message.content }}\n\n{% endfor %}"
    "{% if add_generation_prompt %}### assistant:\n{% endif %}"
)

TURN_END = {
    "llama3": "<|eot_id|>",
    "llama3_1": "<|eot_id|>",
    "llama3_2": "<|eot_id|>",
    "qwen2_5": "<|im_end|>",
    "qwen3": "<|im_end|>",
    "qwen3_instruct_2507": "<|im_end|>",
    "gemma": "<end_of_turn>",
    "gemma3": "<end_of_turn>",
    "gptoss": "<|return|>",
    "deepseekv3": "<｜end▁of▁sentence｜>",  # noqa: RUF001
    "deepseek_r1_distill": "<｜end▁of▁sentence｜>",  # noqa: RUF001
    "glm4moe": "<|user|>",
    "phi3": "<|end|>",
    "cohere": "<|END_OF_TURN_TOKEN|>",
    "lfm2": "<|im_end|>",
}
"""Template → the token that ends its last reply. GLM's replies end where the next turn begins."""

TWINS = {
    "llama3": "",
    "qwen2_5": "",
    "qwen3": "",
    "qwen3_instruct_2507": "",
    "gemma": "",
    "gemma3": "",
    "gptoss": "<|start|>assistant",
    "deepseekv3": "<｜Assistant｜>",  # noqa: RUF001
    "deepseek_r1_distill": "<｜Assistant｜>",  # noqa: RUF001
    "glm4moe": "",
    "phi3": "<|endoftext|>",
    "cohere": "",
    "lfm2": "",
}
"""Template with a marked twin in TRL → what only the twin marks: text that the prompt already holds (GPT-OSS's and
DeepSeek's header), or that nothing waits for after the turn has ended (Phi's end of document). Line breaks after the
end of a turn are such text everywhere."""

SHORT = [
    Message("system", "Answer in one word."),
    Message("user", "What is the capital of Italy?"),
    Message("assistant", "Rome"),
]
LONG = [
    *SHORT,
    Message("user", "And its color?"),
    Message("assistant", "Red, red."),
    Message("user", "Sure?"),
    Message("assistant", "Yes\n\nyes."),
]


@cache
def template(name: str) -> str:
    folder = importlib.resources.files(pytest.importorskip("trl")) / "chat_templates"
    return (folder / f"{name}.jinja").read_text()


@cache
def tokenizer_for(name: str) -> PreTrainedTokenizerBase:
    """The embedded tokenizer with the template and its special tokens."""
    text = {"chatml": CHATML, "plain": PLAIN}.get(name) or template(name)
    tokenizer = AutoTokenizer.from_pretrained(embedded_model())
    found = re.findall(r"<\|[\w-]+\|>|<｜[^<>]+?｜>|<(?:start|end)_of_turn>|\[gMASK\]|<sop>", text)  # noqa: RUF001
    found += ["<|endoftext|>", "<bos>", TURN_END.get(name, "<|im_end|>")]
    tokenizer.add_tokens([AddedToken(token, special=True, normalized=False) for token in dict.fromkeys(found)])
    tokenizer.bos_token = "<bos>"
    tokenizer.eos_token = {"phi3": "<|endoftext|>"}.get(name) or TURN_END.get(name, "<|im_end|>")
    tokenizer.chat_template = text
    return tokenizer


def row(messages: Sequence[Message], **fields: Any) -> Conversation:
    return Conversation(messages=tuple(messages), source=Source("rows.jsonl", 7, "openai"), **fields)


def trained(name: str, conversation: Conversation) -> list[str]:
    """The supervised stretches of the row, as text."""
    tokenizer = tokenizer_for(name)
    rendered = Renderer(tokenizer).render(conversation)
    edges = np.flatnonzero(np.diff(np.concatenate([[0], rendered.supervised.astype(int), [0]])))
    return [tokenizer.decode(rendered.tokens[start:end]) for start, end in edges.reshape(-1, 2)]


@pytest.mark.parametrize("name", TURN_END)
def test_the_reply_and_the_token_that_ends_it_are_trained(name: str) -> None:
    (reply,) = trained(name, row(SHORT))
    assert reply.endswith(f"Rome{TURN_END[name]}")
    assert "Italy" not in reply
    assert "one word" not in reply


@pytest.mark.parametrize("name", TURN_END)
def test_every_reply_of_a_long_conversation_is_trained_with_its_end(name: str) -> None:
    replies = trained(name, row(LONG))
    assert len(replies) == 3
    for reply, content in zip(replies, ["Rome", "Red, red.", "Yes\n\nyes."], strict=True):
        assert re.search(rf"{re.escape(content)}(<[^>]+>)$", reply)


@pytest.mark.parametrize("name", TWINS)
@pytest.mark.parametrize("messages", [SHORT, LONG], ids=["one reply", "three replies"])
def test_the_mask_is_that_of_the_marked_twin(name: str, messages: list[Message]) -> None:
    tokenizer = tokenizer_for(name)
    turns = [{"role": message.role, "content": message.content} for message in messages]
    if name == "gemma":  # it has no system turn
        turns = [{"role": "user", "content": f"{turns[0]['content']}\n\n{turns[1]['content']}"}, *turns[2:]]
    marked = tokenizer.apply_chat_template(
        turns,
        chat_template=template(f"{name}_training"),
        return_dict=True,
        return_assistant_tokens_mask=True,
    )
    twin = np.array(marked["assistant_masks"], bool)
    rendered = Renderer(tokenizer).render(row(messages))
    if name.startswith("qwen3") or name == "deepseek_r1_distill":
        # The twin writes an empty thought into every turn, the stock template into the last alone; both train it.
        ours = [tokenizer.decode(rendered.tokens[rendered.supervised])]
        theirs = [tokenizer.decode(np.array(marked["input_ids"])[twin]).replace(TWINS[name] or "\0", "")]
        bare = [
            re.sub(r"<think>\s*</think>\s*", "", text).replace("<|im_end|>\n", "<|im_end|>") for text in ours + theirs
        ]
        assert bare[0] == bare[1]
        return
    assert rendered.tokens.tolist() == marked["input_ids"]
    assert not (rendered.supervised & ~twin).any()
    only_twin = tokenizer.decode(rendered.tokens[twin & ~rendered.supervised])
    allowed = {token for token in (TWINS[name], "\n") if token}
    for token in allowed:
        only_twin = only_twin.replace(token, "")
    assert only_twin == ""


@pytest.mark.parametrize("name", [name for name in TURN_END if name not in ("deepseekv3", "deepseek_r1_distill")])
def test_the_prompt_is_the_tokens_before_the_reply(name: str) -> None:
    tokenizer = tokenizer_for(name)
    rendered = Renderer(tokenizer).render(row(SHORT))
    prompt = Renderer(tokenizer).prompt(row(SHORT))
    assert prompt == rendered.tokens[: len(prompt)].tolist()
    assert prompt == tokenizer.apply_chat_template(
        [{"role": m.role, "content": m.content} for m in SHORT[:2]]
        if name != "gemma"
        else [{"role": "user", "content": "Answer in one word.\n\nWhat is the capital of Italy?"}],
        add_generation_prompt=True,
        return_dict=False,
    )


def test_a_template_whose_prompt_opens_a_thought_trains_what_follows_in_finished_replies(
    caplog: pytest.LogCaptureFixture,
) -> None:
    renderer = Renderer(tokenizer_for("deepseek_r1_distill"))
    rendered, prompt = renderer.render(row(SHORT)), renderer.prompt(row(SHORT))
    assert prompt == rendered.tokens[: len(prompt)].tolist()
    assert "<think>" in caplog.text


def test_thinking_is_rendered_and_trained() -> None:
    (reply,) = trained("qwen3", row([*SHORT[:2], Message("assistant", "Rome", thinking="Italy, so Rome.")]))
    assert reply == "<think>\nItaly, so Rome.\n</think>\n\nRome<|im_end|>"


def test_earlier_thoughts_that_the_template_drops_do_not_move_the_mask() -> None:
    thinking = [
        *SHORT[1:2],
        Message("assistant", "Rome", thinking="Italy."),
        Message("user", "Sure?"),
        Message("assistant", "Yes", thinking="Yes."),
    ]
    assert trained("qwen3", row(thinking)) == ["Rome<|im_end|>", "<think>\nYes.\n</think>\n\nYes<|im_end|>"]


CALLS = [
    Message("user", "Weather in Rome?"),
    Message("assistant", "", tool_calls=(ToolCall("weather", '{"city": "Rome"}', "abcdefghi"),)),
    Message("tool", "sunny", tool_call_id="abcdefghi", name="weather"),
    Message("assistant", "It is sunny."),
]
TOOLS = ({"type": "function", "function": {"name": "weather", "description": "d", "parameters": {"type": "object"}}},)


@pytest.mark.parametrize("name", ["qwen2_5", "qwen3", "gptoss", "deepseekv3", "glm4moe", "llama3_1"])
def test_tool_calls_are_trained_and_their_results_are_not(name: str) -> None:
    call, answer = trained(name, row(CALLS, tools=TOOLS))
    assert "weather" in call
    assert "Rome" in call
    assert re.search(r"It is sunny\.(<[^>]+>)$", answer)
    assert "sunny" not in call


@pytest.mark.parametrize("name", ["chatml", "llama3", "gptoss"])
def test_a_weight_of_zero_and_the_prompt_of_a_completion_are_context_only(name: str) -> None:
    unweighted = [Message("assistant", "Rome", weight=0) if m.content == "Rome" else m for m in LONG]
    assert len(trained(name, row(unweighted))) == 2
    (reply,) = trained(name, row(LONG, completion_start=len(LONG) - 1))
    assert "Yes" in reply


def test_a_template_without_special_tokens_gets_the_end_of_sequence() -> None:
    assert trained("plain", row(SHORT)) == ["Rome<|im_end|>"]


def test_plain_text_is_trained_whole_and_ended() -> None:
    tokenizer = tokenizer_for("chatml")
    rendered = Renderer(tokenizer).render(Conversation(text="Once there was a bear."))
    assert rendered.supervised.all()
    assert tokenizer.decode(rendered.tokens) == "Once there was a bear.<|im_end|>"


def test_truncation_is_counted() -> None:
    renderer = Renderer(tokenizer_for("chatml"))
    whole = renderer.render(row(SHORT))
    cut = renderer.render(row(SHORT), max_length=len(whole.tokens) - 2)
    assert (cut.truncated, len(cut.tokens)) == (True, len(whole.tokens) - 2)
    assert cut.supervised_lost == whole.supervised.sum() - cut.supervised.sum()
    assert not renderer.render(row(SHORT), max_length=len(whole.tokens)).truncated


def test_a_row_that_the_template_refuses_is_named_with_the_templates_own_words() -> None:
    with pytest.raises(DataError, match=r"rows\.jsonl:7: the chat template of .* refuses this row: .*alternate"):
        Renderer(tokenizer_for("gemma")).render(row([*SHORT[1:2], *SHORT[1:3]]))


def test_a_template_that_never_gives_the_model_the_word_is_refused() -> None:
    tokenizer = AutoTokenizer.from_pretrained(embedded_model())
    tokenizer.chat_template = "{% for message in messages %}[{{ message.content }}]{% endfor %}"
    with pytest.raises(ModelError, match="message 1 begins"):
        Renderer(tokenizer).render(row([Message("assistant", "Rome")]))


def test_a_template_that_writes_the_date_writes_the_given_one() -> None:
    texts = {
        Renderer(tokenizer_for("llama3_2"), today=datetime.date(2024, 7, day)).text(row(SHORT)) for day in (1, 2, 2)
    }
    assert len(texts) == 2


CONTENT = st.text(st.characters(exclude_categories=["Cs", "Co"]), min_size=1, max_size=60).filter(str.strip)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(CONTENT, CONTENT), min_size=1, max_size=3), st.sampled_from(["chatml", "llama3", "qwen2_5"]))
def test_whatever_is_said_only_the_replies_are_trained(turns: list[tuple[str, str]], name: str) -> None:
    messages = [m for asked, said in turns for m in (Message("user", asked), Message("assistant", said))]
    rendered = Renderer(tokenizer_for(name)).render(row(messages))
    tokenizer = tokenizer_for(name)
    end = tokenizer.convert_tokens_to_ids(TURN_END.get(name, "<|im_end|>"))
    assert rendered.supervised.any()
    closing = (rendered.tokens == end) & rendered.supervised
    if not any(TURN_END.get(name, "<|im_end|>") in text for turn in turns for text in turn):
        assert closing.sum() == len(turns)
