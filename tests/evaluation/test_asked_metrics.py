"""What is computed only when it is asked for, and the prompted base beside the others."""

import json
from pathlib import Path

import msgspec
import pytest
from test_evaluate import finish, turns
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from tunesmith.dataset.conversation import Conversation, Message
from tunesmith.dataset.prompting import Recipe
from tunesmith.errors import DataError, RunError, SpecError
from tunesmith.evaluation.asked_metrics import AskedMetrics, Request
from tunesmith.evaluation.comparison import Systems, compare_overlap
from tunesmith.evaluation.evaluate import Options, evaluate
from tunesmith.evaluation.generate import generate
from tunesmith.evaluation.prompted import best_prompt
from tunesmith.run_folder import RunFolder
from tunesmith.spec import dump_spec, parse_spec

ADD = "def add(a, b):\n    return a + b"
SUBTRACT = "def add(a, b):\n    return a - b"
TESTED = Conversation((Message("user", "Add."), Message("assistant", ADD)), metadata={"tests": "assert add(1, 2) == 3"})


def test_code_runs_only_when_asked_and_otherwise_says_how() -> None:
    replies = Systems([SUBTRACT], [ADD])
    compared, skipped = AskedMetrics(Request()).of_code([TESTED], replies, Systems([], []))
    assert compared == []
    assert "--run-code" in skipped[0]


def test_pass_at_one_is_the_share_of_rows_whose_tests_pass() -> None:
    asked = AskedMetrics(Request(run_code=True))
    replies = Systems([SUBTRACT] * 3, [ADD, ADD, SUBTRACT], [ADD] * 3)
    compared, _ = asked.of_code([TESTED] * 3, replies, Systems([], [], []))
    assert (compared[0].name, compared[0].base.value, compared[0].tuned.value) == ("pass@1", 0.0, 2 / 3)
    assert compared[0].prompted is not None
    assert compared[0].prompted.value == 1.0


def test_pass_at_k_is_computed_for_every_k_that_the_samples_allow() -> None:
    asked = AskedMetrics(Request(run_code=True), samples=2)
    compared, _ = asked.of_code([TESTED], Systems([""], [""]), Systems([[SUBTRACT, SUBTRACT]], [[ADD, SUBTRACT]]))
    assert [(metric.name, metric.base.value, metric.tuned.value) for metric in compared] == [
        ("pass@1", 0.0, 0.5),
        ("pass@2", 0.0, 1.0),
    ]


def test_a_judge_needs_its_model() -> None:
    with pytest.raises(SpecError, match="--judge-model"):
        AskedMetrics(Request(judge="http://localhost:1/v1"))


def test_short_references_have_no_overlap_metrics() -> None:
    assert compare_overlap(Systems(["a"] * 3, ["b"] * 3), ["yes"] * 3) == ([], [])


def test_long_references_have_bleu_chrf_and_rouge_with_signatures() -> None:
    text = "The parcel will be with you on Monday"
    found, _ = compare_overlap(Systems(["no"] * 3, [text] * 3), [text] * 3)
    assert [metric.name for metric in found] == ["BLEU", "chrF", "ROUGE-1", "ROUGE-2", "ROUGE-L"]
    assert [metric.tuned.value for metric in found] == pytest.approx([100.0, 100.0, 1.0, 1.0, 1.0])
    assert all(metric.signature for metric in found)


def test_the_prompt_is_the_files_or_what_advice_found(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    assert best_prompt(run, None) is None
    (tmp_path / "advice.json").write_text('{"instruction": "Answer with a label.", "summary": "…"}')
    assert best_prompt(run, None) == Recipe("Answer with a label.")
    (tmp_path / "advice.json").write_text('{"instruction": "Answer.", "recipe": {"instruction": null, "examples": 3}}')
    assert best_prompt(run, None) == Recipe(None, 3)
    (tmp_path / "prompt.txt").write_text("Mine.\n")
    assert best_prompt(run, str(tmp_path / "prompt.txt")) == Recipe("Mine.")
    (tmp_path / "advice.json").write_text("[")
    with pytest.raises(RunError, match=r"advice\.json"):
        best_prompt(run, None)
    (tmp_path / "prompt.txt").write_text(" \n")
    with pytest.raises(DataError, match="empty"):
        best_prompt(run, str(tmp_path / "prompt.txt"))


def test_advice_that_is_given_is_kept_in_the_run_folder(tmp_path: Path) -> None:
    run, file = RunFolder(tmp_path / "run"), tmp_path / "advice.json"
    run.root.mkdir()
    unread = dict.fromkeys(("summary", "pitfall", "task", "metric", "model"), "") | {"recommendation": "fine-tune"}
    unread |= dict.fromkeys(("steps", "would_change", "baselines", "alternatives", "notes"), ())
    unread |= dict.fromkeys(("target", "rows", "held_out", "seconds"), 0) | {"needs": {}}
    unread |= dict.fromkeys(("best", "diagnosis", "bits_per_byte", "pair_bits_per_byte", "training"), None)
    plain = {"instruction": "Answer.", "recipe": {}}  # the plain prompt was best: there is nothing to add
    file.write_text(json.dumps(plain))
    with pytest.raises(RunError, match=r"advice\.json"):
        best_prompt(run, None, str(file))
    assert not run.advice.exists()  # what the report could not read is not kept
    file.write_text(json.dumps(unread | plain))
    assert best_prompt(run, None, str(file)) == Recipe("Answer.")
    assert run.advice.read_bytes() == file.read_bytes()
    with pytest.raises(SpecError, match="--advice"):
        best_prompt(run, "prompt.txt", str(file))
    with pytest.raises(DataError, match=r"gone\.json"):
        best_prompt(run, None, str(tmp_path / "gone.json"))


def test_an_evaluation_with_everything_that_needs_nothing_installed(
    tmp_path: Path, model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunFolder(finish(tmp_path, "lora", model, tokenizer))
    lines = [json.loads(line) for line in run.holdout.read_text().splitlines()]
    train = tmp_path / "train.jsonl"
    train.write_text("".join(json.dumps(line) + "\n" for line in lines))
    spec = run.spec.read_text().replace("gone.jsonl", str(train))
    run.spec.write_text(spec)
    (tmp_path / "words.py").write_text("def words(reply, reference):\n    return len(reply.split())\n")
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "prompt.txt").write_text("w3")
    other = tmp_path / "other.jsonl"
    other.write_text("".join(json.dumps(line) + "\n" for line in lines[:20]))

    options = Options(prompt=str(tmp_path / "prompt.txt"), request=Request(metrics=("words:words",)))
    evaluation = evaluate(run, str(other), options)
    by_name = {metric.name: metric for metric in evaluation.metrics}
    assert by_name["words"].base.value > 0
    assert by_name["accuracy"].prompted is not None
    assert by_name["loss"].over_prompted is not None
    assert by_name["accuracy"].p == pytest.approx(2**-19)  # twenty rows that only tuned gets right
    assert evaluation.prompt == "w3"
    assert all(sample.prompted is not None for sample in evaluation.samples)
    assert evaluation.confusion is not None
    assert evaluation.confusion.tuned == ((10, 0, 0), (0, 10, 0))
    verdicts = {verdict.name: verdict.status for verdict in evaluation.verdicts}
    assert verdicts["did it help"] == "good"
    assert verdicts["adapter"] == "note"
    assert msgspec.json.decode(run.evaluation.read_bytes())["prompt"] == "w3"


def test_the_prompted_base_sees_as_many_examples_as_advised_and_fit_and_no_prompt_costs_the_reply_its_end(
    tmp_path: Path, model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunFolder(finish(tmp_path, "lora", model, tokenizer))
    lines = [json.loads(line) for line in run.holdout.read_text().splitlines()]
    train = tmp_path / "train.jsonl"
    trained = [turns(" ".join(f"w{(n + k) % 55}" for k in range(20)), "w40") for n in range(12)]
    train.write_text("".join(json.dumps(line) + "\n" for line in [*lines, *trained]))
    values = run.load_spec().model_dump() | {"data": {"train": str(train)}, "training": {"max_length": 12}}
    run.spec.write_text(dump_spec(parse_spec(values)))
    run.advice.write_text('{"recipe": {"instruction": "w3", "examples": 5}}')
    asked: list[int] = []

    def spy(model: object, tokenizer: object, prompts: list[list[int]], *, max_new_tokens: int) -> list[str]:
        asked.extend(map(len, prompts))
        return generate(model, tokenizer, prompts, max_new_tokens=max_new_tokens)  # type: ignore[arg-type]

    monkeypatch.setattr("tunesmith.evaluation.generate.generate", spy)
    evaluation = evaluate(run)
    assert (evaluation.prompt, evaluation.examples) == ("w3", 5)
    context = model.config.max_position_embeddings
    assert 100 < max(asked) < context  # five examples of 26 tokens would be too long, four are not
    loss = next(metric for metric in evaluation.metrics if metric.name == "loss")
    assert loss.prompted is not None and 0 < loss.prompted.value < 20
