"""The model card is what the hub reads and what the run holds."""

import msgspec
import pytest
from huggingface_hub import ModelCard

from tunesmith import storage
from tunesmith.evaluation.result import Estimate, Evaluation, MetricComparison, Verdict
from tunesmith.exporting.card import write_card
from tunesmith.run_folder import RunFolder
from tunesmith.spec import dump_spec, parse_spec
from tunesmith.training.events import EvalEvent, StartEvent

PAIRS = ((0, False, 0.5), (10, True, 0.87), (20, False, 0.8))


@pytest.fixture
def run(tmp_path) -> RunFolder:
    return planted(RunFolder(tmp_path / "tickets"), "acme/base-1b")


def planted(run: RunFolder, model: str, kind: str = "lora", objective: dict[str, object] | None = None) -> RunFolder:
    values = {
        "objective": objective or {"kind": "sft"},
        "model": model,
        "data": {"train": "private/tickets.jsonl"},
        "adapter": {"kind": kind},
        "output": str(run.root),
    }
    storage.write_text(run.spec, dump_spec(parse_spec(values)))
    start = StartEvent(0, 60, 300, 34, 1000, 100_000, 3, 0.021, model, "fp32", 0.0)
    storage.write_bytes(run.events, msgspec.json.encode(start) + b"\n")
    return run


def evaluated(run: RunFolder) -> RunFolder:
    accuracy = MetricComparison(
        name="accuracy",
        better="higher",
        base=Estimate(0.125, 0.06, 0.23),
        tuned=Estimate(0.9, 0.8, 0.95),
        difference=Estimate(0.775, 0.65, 0.86),
        significant=True,
        rows=34,
        method="planted method",
    )
    verdict = Verdict("did it help", "good", "Fine-tuning helped: 12% to 90%.", "", "")
    evaluation = Evaluation(str(run.root), "x/holdout.jsonl", 34, "classification", (accuracy,), (verdict,), (), 1.0)
    storage.write_bytes(run.evaluation, msgspec.json.encode(evaluation))
    return run


def test_the_hub_reads_base_licence_tags_and_results_from_the_metadata(run: RunFolder) -> None:
    data = ModelCard.load(write_card(evaluated(run))).data
    assert (data.base_model, data.license, data.library_name) == ("acme/base-1b", "unknown", "peft")
    assert {"tunesmith", "lora", "sft"} <= set(data.tags)
    assert [(result.metric_type, result.metric_value) for result in data.eval_results] == [("accuracy", 0.9)]


def test_the_card_shows_results_with_intervals_and_how_they_were_made(run: RunFolder) -> None:
    text = write_card(evaluated(run)).read_text()
    assert (
        "| accuracy | 34 | 0.125 (0.060 to 0.230) | 0.900 (0.800 to 0.950) | +0.775 (+0.650 to +0.860) | better |"
        in text
    )
    assert "planted method" in text
    assert "Fine-tuning helped: 12% to 90%." in text


def test_the_card_of_a_policy_names_its_options_and_how_good_its_reward_model_is(run: RunFolder) -> None:
    policy = {"kind": "ppo", "kl_coef": 0.07}
    planted(run, "acme/base-1b", objective={"kind": "rlhf", "policy": policy})
    planted(run.reward_model, "acme/base-1b", objective={"kind": "reward"})
    pairs = [EvalEvent(step, 0.5, best=best, measures={"accuracy": share}) for step, best, share in PAIRS]
    with run.reward_model.events.open("ab") as file:
        file.write(b"".join(msgspec.json.encode(event) + b"\n" for event in pairs))
    text = write_card(run).read_text()
    assert "| policy.kl_coef | 0.07 |" in text
    told = "t scores the chosen reply above the rejected one in 87% of 34 held-out pairs."
    assert f"* reward model, trained first: i{told}" in text
    scorer = write_card(run.reward_model).read_text()
    assert f"## Results\n\nI{told}" in scorer
    assert "tunesmith evaluate" not in scorer
    assert "AutoModelForSequenceClassification" in scorer
    assert ModelCard(scorer).data.pipeline_tag == "text-classification"


def test_the_card_never_says_where_a_reward_came_from(run: RunFolder) -> None:
    planted(run, "acme/base-1b", objective={"kind": "grpo", "reward": "secret/place.py:reward"})
    text = write_card(run).read_text()
    assert "| num_generations | 8 |" in text
    assert "secret" not in text


def test_the_card_states_data_facts_and_hyperparameters_without_private_paths(run: RunFolder) -> None:
    text = write_card(run).read_text()
    assert "300 to train on, 34 held out" in text
    assert "3 rows, 2.1% of the supervised tokens" in text
    assert "| learning_rate | 0.0002 |" in text
    assert "private/" not in text


def test_a_run_that_was_not_evaluated_says_so(run: RunFolder) -> None:
    assert "Not evaluated yet" in write_card(run).read_text()


def test_the_licence_is_the_one_that_the_card_of_the_base_names(tmp_path) -> None:
    base = tmp_path / "base"
    base.mkdir()
    (base / "README.md").write_text("---\nlicense: mit\n---\n# Base\n")
    data = ModelCard.load(write_card(planted(RunFolder(tmp_path / "run"), str(base)))).data
    assert data.license == "mit"
    assert data.base_model is None  # a private folder is no hub id


def test_the_embedded_base_passes_its_own_licence_on(tmp_path) -> None:
    data = ModelCard.load(write_card(planted(RunFolder(tmp_path / "run"), "embedded", kind="full"))).data
    assert (data.license, data.library_name) == ("apache-2.0", "transformers")
