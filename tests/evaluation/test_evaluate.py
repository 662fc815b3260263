"""The whole comparison on a small real run: same rows, both models, one file."""

import json
import shutil
from pathlib import Path

import msgspec
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from tunesmith import storage
from tunesmith.dataset.conversation import Conversation, Message
from tunesmith.errors import DataError, RunError
from tunesmith.evaluation import evaluate as module
from tunesmith.evaluation.evaluate import evaluate, kind_of
from tunesmith.evaluation.result import Evaluation
from tunesmith.run_folder import RunFolder
from tunesmith.spec import dump_spec, parse_spec


@pytest.fixture(scope="module")
def finished(
    tmp_path_factory: pytest.TempPathFactory, model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> dict[str, Path]:
    """Finished runs by adapter kind, whose tuned models learned their held-out rows, and whose base did not."""
    return {kind: finish(tmp_path_factory.mktemp(kind), kind, model, tokenizer) for kind in ("lora", "full")}


@pytest.fixture
def run(finished: dict[str, Path], tmp_path: Path) -> RunFolder:
    """A copy of the LoRA run, to do with as one likes."""
    return RunFolder(shutil.copytree(finished["lora"], tmp_path / "run"))


def finish(folder: Path, kind: str, model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> Path:
    run, base = RunFolder(folder / "run"), folder / "base"
    model.save_pretrained(base)
    tokenizer.save_pretrained(base)
    lines = [turns(f"w{n} w{n + 1} w{n + 2}", "w40" if n % 2 else "w41") for n in range(24)]
    storage.write_text(run.holdout, "".join(json.dumps(line) + "\n" for line in lines))
    values = {"model": str(base), "data": {"train": "gone.jsonl"}, "adapter": {"kind": kind}, "output": str(run.root)}
    storage.write_text(run.spec, dump_spec(parse_spec(values)))
    tuned = LlamaForCausalLM.from_pretrained(base, dtype=torch.float32)
    torch.manual_seed(0)
    if kind == "lora":
        tuned = get_peft_model(tuned, LoraConfig(r=8, target_modules="all-linear", task_type="CAUSAL_LM"))
    learn(tuned, tokenizer, lines)
    tuned.save_pretrained(run.adapter if kind == "lora" else run.model)
    if kind == "full":
        tokenizer.save_pretrained(run.model)
    return run.root


def turns(question: str, answer: str) -> dict[str, object]:
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


def learn(model: torch.nn.Module, tokenizer: PreTrainedTokenizerFast, lines: list[dict[str, object]]) -> None:
    optimizer = torch.optim.Adam((p for p in model.parameters() if p.requires_grad), lr=0.02)
    ids = torch.tensor(
        [tokenizer.encode(tokenizer.apply_chat_template(line["messages"], tokenize=False)) for line in lines]
    )
    for _ in range(40):
        logits = model(input_ids=ids).logits[:, -3:-1]  # the answer and its turn end
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, -2:].flatten())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def test_few_rows_are_of_the_kind_that_the_rows_trained_on_show() -> None:
    labelled = [Conversation((Message("user", f"{n}?"), Message("assistant", "abc"[n % 3]))) for n in range(24)]
    assert kind_of(labelled[:5], []) == "free text"
    assert kind_of(labelled[:5], labelled[5:]) == "classification"


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_a_model_that_learned_is_found_better_than_its_base(
    finished: dict[str, Path], kind: str, tmp_path: Path
) -> None:
    evaluation = evaluate(RunFolder(shutil.copytree(finished[kind], tmp_path / "run")))
    assert (evaluation.task, evaluation.rows) == ("classification", 24)
    assert [metric.name for metric in evaluation.metrics] == [
        "accuracy",
        "macro F1",
        "exact match",
        "loss",
        "perplexity",
        "drift",
    ]
    accuracy, loss = evaluation.metrics[0], evaluation.metrics[3]
    assert (accuracy.base.value, accuracy.tuned.value) == (0.0, 1.0)
    assert accuracy.significant
    assert loss.tuned.value < 0.1 < loss.base.value
    assert evaluation.verdicts[0].status == "good"


def test_the_result_is_written_whole_and_repeats_itself(run: RunFolder) -> None:
    first = evaluate(run)
    assert msgspec.json.decode(run.evaluation.read_bytes(), type=Evaluation) == first
    assert msgspec.structs.replace(evaluate(run), seconds=first.seconds) == first


def test_samples_show_both_replies_with_their_scores(run: RunFolder) -> None:
    sample = evaluate(run).samples[1]
    assert (sample.row, sample.prompt, sample.reference, sample.tuned) == (1, "w1 w2 w3", "w40", "w40")
    assert (sample.base_score, sample.tuned_score) == (0.0, 1.0)
    assert sample.base != sample.tuned


def test_replies_may_be_sampled_but_every_row_is_scored_for_loss(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_REPLIES", 5)
    evaluation = evaluate(run)
    rows = {metric.name: metric.rows for metric in evaluation.metrics}
    assert (rows["accuracy"], rows["loss"], len(evaluation.samples)) == (5, 24, 5)
    assert "a sample of 5 of 24 rows, seed 0" in evaluation.metrics[0].method


def test_a_run_without_held_out_rows_says_what_to_do(run: RunFolder) -> None:
    run.holdout.unlink()
    with pytest.raises(RunError, match="--data FILE"):
        evaluate(run)


def test_other_rows_can_be_given(run: RunFolder, tmp_path: Path) -> None:
    other = tmp_path / "other.jsonl"
    other.write_text(json.dumps(turns("w1 w2 w3", "w40")) + "\n")
    evaluation = evaluate(run, str(other))
    assert (evaluation.data, evaluation.rows) == (str(other), 1)


def test_rows_that_were_trained_on_are_a_leak_and_held_out_ones_are_none(run: RunFolder, tmp_path: Path) -> None:
    trained = [turns(f"w{n} w{n + 2} w{n + 5}", "w40") for n in range(24)]
    held_out = [json.loads(line) for line in run.holdout.read_text().splitlines()]
    file = tmp_path / "train.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in [*held_out, *trained]))
    values = run.load_spec().model_dump() | {"data": {"train": str(file)}}
    storage.write_text(run.spec, dump_spec(parse_spec(values)))
    leak = {verdict.name: verdict.status for verdict in evaluate(run).verdicts}
    assert leak["data leak"] == "good"
    assert leak["too few examples"] == "bad"  # the checklist is run where the run folder holds no report of it
    seen = tmp_path / "seen.jsonl"
    seen.write_text("".join(json.dumps(line) + "\n" for line in trained))
    leak = {verdict.name: verdict.status for verdict in evaluate(run, str(seen)).verdicts}
    assert leak["data leak"] == "bad"


def test_an_empty_file_is_refused(run: RunFolder, tmp_path: Path) -> None:
    empty = tmp_path / "empty.jsonl"
    empty.write_text("")
    with pytest.raises(DataError, match=r"empty\.jsonl"):
        evaluate(run, str(empty))
    assert not run.evaluation.exists()
