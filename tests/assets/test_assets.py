from functools import cache

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from tunesmith import assets
from tunesmith.dataset.read import load

WEIGHTS_LIMIT = 8 * 10**6
"""Bytes of weights the repository is willing to carry."""

RETENTION_LOSS = 0.5
"""Nats per reply token on conversations that pretraining did not draw; much of it is honest chance (which fruits?)."""


@cache
def base() -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    folder = assets.embedded_model()
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32), AutoTokenizer.from_pretrained(folder)


def reply(*contents: str, system: str | None = None) -> str:
    model, tokenizer = base()
    messages = [{"role": "system", "content": system}] if system else []
    messages += [{"role": ("user", "assistant")[i % 2], "content": content} for i, content in enumerate(contents)]
    prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    output = model.generate(**prompt, max_new_tokens=40, do_sample=False)
    return tokenizer.decode(output[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True)


def test_weights_are_safetensors_within_the_limit() -> None:
    weights = [path for path in assets.embedded_model().iterdir() if path.suffix in (".safetensors", ".bin", ".pt")]
    assert [path.name for path in weights] == ["model.safetensors"]
    assert weights[0].stat().st_size <= WEIGHTS_LIMIT


def test_base_model_speaks_its_language() -> None:
    model, tokenizer = base()
    total, count = 0.0, 0
    for row in load(assets.sample("retention")):
        messages = [{"role": message.role, "content": message.content} for message in row.messages]
        prompt = tokenizer.apply_chat_template(messages[:-1], add_generation_prompt=True, return_dict=False)
        tokens = torch.tensor([tokenizer.apply_chat_template(messages, return_dict=False)])
        labels = tokens.clone()
        labels[:, : len(prompt)] = -100
        supervised = tokens.shape[1] - len(prompt)
        with torch.inference_mode():
            total += model(input_ids=tokens, labels=labels).loss.item() * supervised
        count += supervised
    assert total / count < RETENTION_LOSS


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("What is the capital of France?", "The capital of France is Paris."),
        ("What sound does an owl make?", "An owl hoots."),
        ("Which day comes after Monday?", "Tuesday comes after Monday."),
        ("Is this review good or bad? The soup was awful and stale.", "bad"),
    ],
)
def test_base_model_follows_the_instructions_it_was_taught(question: str, answer: str) -> None:
    assert reply(question) == answer


def test_base_model_follows_a_system_prompt() -> None:
    assert reply("What is the capital of Italy?", system="Answer in one word.") == "Rome"


def test_base_model_does_not_solve_the_ticket_sample() -> None:
    rows = load(assets.sample("tickets"))[::12]
    solved = sum(
        reply(row.messages[1].content, system=row.messages[0].content) == row.messages[2].content for row in rows
    )
    assert solved < 0.4 * len(rows)


@pytest.mark.parametrize("name", [name for name in assets.SAMPLES if name != "dirty"])
def test_clean_samples_read_without_a_broken_row(name: assets.SampleName) -> None:
    rows = load(assets.sample(name))
    assert 150 <= len(rows) <= 1000
    assert all(row.completion for row in rows)
