"""General tasks through lm-evaluation-harness 0.4.13, on a task of our own: its data sets are not to be had offline."""

import json
from pathlib import Path

import msgspec
import numpy as np
import pytest
from planted_runs import metric
from test_evaluate import finish
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from tunesmith.errors import SpecError
from tunesmith.evaluation.asked_metrics import Request
from tunesmith.evaluation.evaluate import Options, evaluate
from tunesmith.evaluation.harness import Harness
from tunesmith.evaluation.result import MetricComparison
from tunesmith.evaluation.verdicts import judge_tasks
from tunesmith.run_folder import RunFolder

TASK = """task: tiny_choice
dataset_path: json
dataset_kwargs: {data_files: {test: "%s"}}
output_type: multiple_choice
test_split: test
doc_to_text: "{{q}}"
doc_to_target: gold
doc_to_choice: choices
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
  - {metric: acc_norm, aggregation: mean, higher_is_better: true}
"""


@pytest.fixture
def task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    documents = [{"q": f"w{n} w{n + 1}", "choices": ["w40", "w7"], "gold": 0} for n in range(30)]
    (tmp_path / "documents.jsonl").write_text("".join(json.dumps(document) + "\n" for document in documents))
    (tmp_path / "tiny.yaml").write_text(TASK % (tmp_path / "documents.jsonl"))
    return str(tmp_path / "tiny.yaml")


@pytest.mark.slow  # importing the harness takes seconds
def test_base_and_tuned_are_compared_on_a_tasks_documents(
    task: str, tmp_path: Path, model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    run = RunFolder(finish(tmp_path, "lora", model, tokenizer))
    evaluation = evaluate(run, options=Options(request=Request(harness=(task,))))
    found = next(each for each in evaluation.metrics if each.name == "tiny_choice acc_norm")
    assert (found.rows, found.better, found.top) == (30, "higher", 1.0)
    assert found.signature.startswith("lm-eval ")
    own = Harness([task]).scores(model, tokenizer)["tiny_choice acc_norm"]
    assert found.base.value == np.mean(own)
    assert any("general tasks" in verdict.finding for verdict in evaluation.verdicts)


@pytest.mark.slow
def test_a_task_that_is_not_there_is_named_before_a_model_is_loaded() -> None:
    with pytest.raises(SpecError, match=r"--harness no_such_task\.yaml: .*lm_eval ls tasks"):
        Harness(["no_such_task.yaml"])


def test_surely_worse_on_a_general_task_is_forgetting_and_unsurely_is_not() -> None:
    def task(base: float, tuned: float, p: float) -> MetricComparison:
        return msgspec.structs.replace(metric("arc acc", base, tuned, 0.03), p=p)

    same, slightly, much = task(0.5, 0.49, 0.6), task(0.5, 0.45, 0.001), task(0.6, 0.4, 0.0001)
    assert judge_tasks([same]).status == "good"
    assert judge_tasks([same, slightly]).status == "warn"
    worst = judge_tasks([same, slightly, much])
    assert (worst.status, worst.name) == ("bad", "forgetting")
    assert "2 of 3 general tasks: arc acc went from 60% to 40%" in worst.finding
    assert judge_tasks([task(0.5, 0.45, 0.03)] * 4).status == "good"  # one of four is expected to look so
