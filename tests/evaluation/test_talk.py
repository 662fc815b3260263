"""Talking with a run's model says what generating from it says, turn by turn."""

import json

import pytest
import torch
from click.testing import CliRunner
from peft import LoraConfig, get_peft_model
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from tunesmith import storage
from tunesmith.cli.chat import command
from tunesmith.dataset.conversation import Conversation, Message
from tunesmith.dataset.render import Renderer
from tunesmith.errors import RunError
from tunesmith.evaluation import talk
from tunesmith.evaluation.generate import generate
from tunesmith.evaluation.talk import Chat
from tunesmith.models.load import load_model, load_tuned
from tunesmith.run_folder import RunFolder
from tunesmith.spec import dump_spec, parse_spec

LIMIT = 16


@pytest.fixture(autouse=True)
def short_replies(monkeypatch: pytest.MonkeyPatch) -> None:
    """A random model seldom ends a reply by itself."""
    monkeypatch.setattr(talk, "MAX_REPLY_TOKENS", LIMIT)


@pytest.fixture(scope="module")
def run(
    tmp_path_factory: pytest.TempPathFactory, model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> RunFolder:
    """A run whose adapter is random: base and tuned model babble differently, and its rows share a system prompt."""
    folder = tmp_path_factory.mktemp("talk")
    run = RunFolder(folder / "run")
    model.save_pretrained(folder / "base")
    tokenizer.save_pretrained(folder / "base")
    turns = [("system", "w9 w8"), ("user", "w1"), ("assistant", "w2")]
    row = {"messages": [{"role": role, "content": content} for role, content in turns]}
    storage.write_text(run.holdout, json.dumps(row) + "\n")
    values = {"model": str(folder / "base"), "data": {"train": "gone.jsonl"}, "output": str(run.root)}
    storage.write_text(run.spec, dump_spec(parse_spec(values)))
    torch.manual_seed(3)
    base = LlamaForCausalLM.from_pretrained(folder / "base", dtype=torch.float32)
    tuned = get_peft_model(base, LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))
    with torch.no_grad():
        for parameter in tuned.parameters():
            if parameter.requires_grad:
                parameter.normal_(std=0.3)
    tuned.save_pretrained(run.adapter)
    return run


def generated(run: RunFolder, tokenizer: PreTrainedTokenizerFast, turns: list[Message], *, tuned: bool) -> str:
    model = load_tuned(run, dtype=torch.float32) if tuned else load_model(run.load_spec().model, dtype=torch.float32)
    prompt = Renderer(tokenizer).prompt(Conversation(tuple(turns), completion_start=len(turns)))
    return generate(model, tokenizer, [prompt], max_new_tokens=LIMIT)[0]


def test_both_models_answer_as_they_generate_under_the_system_prompt_of_the_rows(
    run: RunFolder, tokenizer: PreTrainedTokenizerFast
) -> None:
    chat = Chat(run)
    assert chat.system == "w9 w8"
    pieces: list[str] = []
    tuned, base = chat.ask("w3 w4", on_text=pieces.append), chat.ask_base()
    turns = [Message("system", "w9 w8"), Message("user", "w3 w4")]
    assert tuned.text == generated(run, tokenizer, turns, tuned=True)
    assert base.text == generated(run, tokenizer, turns, tuned=False)
    assert tuned.text != base.text
    assert "".join(pieces).strip() == tuned.text


def test_a_conversation_goes_on_until_it_is_reset(run: RunFolder) -> None:
    chat = Chat(run)
    first = chat.ask("w3")
    assert chat.ask("w3").prompt_tokens > first.prompt_tokens
    chat.reset()
    assert chat.ask("w3").text == first.text


def test_a_conversation_that_outgrows_the_model_says_so_and_is_kept(run: RunFolder) -> None:
    chat = Chat(run)
    before = chat.ask("w3 w4")
    with pytest.raises(RunError, match=r"the model reads 128; .*/reset"):
        chat.ask("w5 " * 130)
    chat.reset()
    assert chat.ask("w3 w4").text == before.text


def test_the_base_is_not_asked_before_there_is_a_turn(run: RunFolder) -> None:
    with pytest.raises(RunError, match="ask first"):
        Chat(run).ask_base()


def test_lines_of_standard_input_are_turns_of_one_conversation(run: RunFolder) -> None:
    done = CliRunner().invoke(command, [str(run.root), "--json"], input="w3\n/base\nw4\n/reset\nw3\n")
    first, second, third = map(json.loads, done.stdout.splitlines())
    assert first["base"] is None
    assert second["base"]["text"] != second["tuned"]["text"]
    assert second["tuned"]["prompt_tokens"] > first["tuned"]["prompt_tokens"]
    assert third["tuned"]["text"] == first["tuned"]["text"]


def test_once_prints_the_reply_alone(run: RunFolder) -> None:
    done = CliRunner().invoke(command, [str(run.root), "--once", "w3"])
    assert done.stdout.strip() == Chat(run).ask("w3").text
