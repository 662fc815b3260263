"""`train` on small runs: the run folder it leaves, and what it refuses."""

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file

from tunesmith.assets import embedded_model
from tunesmith.errors import DataError, ModelError, RunError, SpecError, StorageError, TrainingError
from tunesmith.models.load import load_model, load_tuned
from tunesmith.planning.typical import range_warnings
from tunesmith.run_folder import RunFolder
from tunesmith.spec import RunSpec, parse_spec
from tunesmith.training.events import EndEvent, EvalEvent, Event, StartEvent, StepEvent
from tunesmith.training.run import train


def make_spec(rows: Path, output: Path, model: str | Path = "embedded", **sections: dict[str, object]) -> RunSpec:
    training = {"epochs": 2, "batch_size": 8, "max_length": 64} | sections.get("training", {})
    rest = {key: value for key, value in sections.items() if key not in ("training", "data")}
    values = {"model": str(model), "data": {"train": str(rows)} | sections.get("data", {}), "training": training}
    return parse_spec(values | rest | {"output": str(output)})


def read_events(run: RunFolder) -> list[Event]:
    return [msgspec.json.decode(line, type=Event) for line in run.events.read_bytes().splitlines()]


@pytest.mark.parametrize("kind", ["full", "lora", "prefix"])
def test_bf16_trains_as_fp32_does_up_to_its_rounding(kind: str, tickets: Path, tmp_path: Path) -> None:
    curves = []
    for precision in ("fp32", "bf16"):
        # A larger rate lets Adam's signs amplify the rounding, by more or less as the processor's products are summed.
        training = {"steps": 3, "epochs": None, "precision": precision, "learning_rate": 1e-5}
        spec = make_spec(tickets, tmp_path / precision, adapter={"kind": kind}, training=training)
        curves.append([event.loss for event in read_events(train(spec).run) if isinstance(event, StepEvent)])
    assert curves[1] == pytest.approx(curves[0], rel=0.02)
    assert curves[1] != curves[0]


def test_a_run_leaves_its_spec_events_holdout_checkpoints_and_adapter(tickets: Path, tmp_path: Path) -> None:
    spec = make_spec(tickets, tmp_path / "run", training={"weight_decay": 0.2})
    seen: list[Event] = []
    result = train(spec, observer=seen.append)

    run = result.run
    assert run.load_spec().training.epochs == 2
    assert seen == read_events(run)
    steps = [event.step for event in seen if isinstance(event, StepEvent)]
    assert steps == list(range(1, result.steps + 1))
    assert isinstance(seen[0], StartEvent)
    assert isinstance(seen[-1], EndEvent)
    start = seen[0]
    assert start.train_rows + start.eval_rows == 40
    assert start.warnings == range_warnings(spec)
    assert [warning.split(",")[0] for warning in start.warnings] == ["training.weight_decay is 0.2"]
    assert len(run.holdout.read_bytes().splitlines()) == start.eval_rows
    assert {path.name for path in run.root.iterdir()} == {
        "spec.yaml", "events.jsonl", "holdout.jsonl", "checkpoints", "adapter",
    }  # fmt: skip
    evals = [event for event in seen if isinstance(event, EvalEvent)]
    assert evals[0].step == 0
    assert evals[-1].step == result.steps
    assert len(evals) >= 5
    assert evals[-1].loss < evals[0].loss
    assert result.parameters.trainable == start.trainable_parameters
    assert "tokens/s" in result.account()


def test_training_stops_early_and_keeps_the_best_step(tickets: Path, tmp_path: Path) -> None:
    training = {"steps": 60, "epochs": None, "learning_rate": 0.1, "eval_every": 1, "early_stopping": {"patience": 2}}
    result = train(make_spec(tickets, tmp_path / "run", training=training))
    events = read_events(result.run)
    evals = {event.step: event.loss for event in events if isinstance(event, EvalEvent) and event.step > 0}
    end = events[-1]
    assert isinstance(end, EndEvent)
    assert (end.reason, end.best_step) == ("early_stopping", result.best_step)
    assert result.best_step == min(evals, key=lambda step: evals[step]) == result.steps - 2

    best = load_file(result.run.checkpoints / f"step-{result.best_step}" / "parameters.safetensors")
    saved = load_file(result.run.adapter / "adapter_model.safetensors")
    assert {name.replace(".default", "") for name in best} == saved.keys()
    assert all(torch.equal(saved[name.replace(".default", "")], value) for name, value in best.items())


def test_without_validation_the_last_step_is_kept(tickets: Path, tmp_path: Path) -> None:
    result = train(make_spec(tickets, tmp_path / "run", data={"holdout": 0}))
    assert result.best_step is None
    assert result.run.adapter.is_dir()
    assert not result.run.holdout.exists()


def test_an_eval_file_takes_the_place_of_the_holdout(tickets: Path, tmp_path: Path) -> None:
    validation = tmp_path / "eval.jsonl"
    validation.write_text("".join(tickets.read_text().splitlines(keepends=True)[:5]))
    result = train(make_spec(tickets, tmp_path / "run", data={"eval": str(validation)}))
    start = read_events(result.run)[0]
    assert isinstance(start, StartEvent)
    assert (start.train_rows, start.eval_rows) == (40, 5)
    assert not result.run.holdout.exists()


@pytest.mark.parametrize("architecture", ["qwen3", "mistral", "gemma2"])
def test_a_model_folder_of_another_architecture_trains(
    architecture: str, model_folder: Callable[[str], Path], tickets: Path, tmp_path: Path
) -> None:
    result = train(make_spec(tickets, tmp_path / "run", model_folder(architecture)))
    tuned = load_tuned(result.run, dtype=torch.float32)
    assert isinstance(tuned, PeftModel)


def test_full_fine_tuning_leaves_a_model_that_loads_by_itself(
    model_folder: Callable[[str], Path], tickets: Path, tmp_path: Path
) -> None:
    spec = make_spec(tickets, tmp_path / "run", model_folder("llama"), adapter={"kind": "full"})
    result = train(spec)
    assert result.parameters.trainable == result.parameters.total
    base, tuned = load_model(spec.model, dtype=torch.float32), load_model(str(result.run.model), dtype=torch.float32)
    assert not torch.equal(base.lm_head.weight, tuned.lm_head.weight)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_run_after_the_step_with_a_checkpoint(
    number: signal.Signals, tickets: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def interrupt(event: Event) -> None:
        if isinstance(event, StepEvent) and event.step == 3:
            os.kill(os.getpid(), number)

    spec = make_spec(tickets, tmp_path / "run")
    before = signal.getsignal(number)
    stopped = train(spec, observer=interrupt)
    assert signal.getsignal(number) is before
    assert "stopping after the step under way" in caplog.text
    assert (stopped.reason, stopped.steps) == ("interrupted", 3)
    assert (stopped.run.checkpoints / "step-3").is_dir()
    assert not stopped.run.adapter.exists()

    finished = train(spec, resume=True)
    assert finished.reason == "finished"
    steps = [event.step for event in read_events(finished.run) if isinstance(event, StepEvent)]
    assert steps == list(range(1, finished.steps + 1))


def test_resuming_where_kernels_round_differently_is_told(
    tickets: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(event: Event) -> None:
        if isinstance(event, StepEvent):
            os.kill(os.getpid(), signal.SIGTERM)

    spec = make_spec(tickets, tmp_path / "run", training={"steps": 3, "epochs": None})
    told = []
    for kernels in ("compiled", "compiled", "torch"):
        monkeypatch.setattr("tunesmith.training.run.kernels_for", lambda device, bf16, kernels=kernels: kernels)
        caplog.clear()
        train(spec, resume=bool(told), observer=interrupt)
        told.append([record.message for record in caplog.records if "round differently" in record.message])
    assert told[:2] == [[], []]
    assert told[2] == [
        f"{tmp_path / 'run'}: computed with compiled kernels so far, from here on with torch ones, which round "
        "differently: it will not end bit-identical to a run that was never stopped"
    ]


def test_resuming_a_finished_run_changes_nothing(tickets: Path, tmp_path: Path) -> None:
    spec = make_spec(tickets, tmp_path / "run")
    first = train(spec)
    weights = (first.run.adapter / "adapter_model.safetensors").read_bytes()
    second = train(spec, resume=True)
    assert (second.steps, second.best_step, second.tokens) == (first.steps, first.best_step, first.tokens)
    assert (first.run.adapter / "adapter_model.safetensors").read_bytes() == weights


def test_a_loss_that_is_not_finite_stops_the_run_with_a_way_out(
    model_folder: Callable[[str], Path], tickets: Path, tmp_path: Path
) -> None:
    training = {"learning_rate": 0.9, "max_grad_norm": 1e9, "scheduler": "constant", "warmup": 0.0, "epochs": 40}
    spec = make_spec(
        tickets, tmp_path / "run", model_folder("llama"),
        adapter={"kind": "lora", "alpha": 1e30}, training=training,
    )  # fmt: skip
    with pytest.raises(TrainingError, match=r"step \d+: the .* training\.learning_rate \(now 0\.9\)"):
        train(spec)
    assert not RunFolder(Path(spec.output)).adapter.exists()


def test_weights_that_give_no_number_are_not_blamed_on_the_learning_rate(
    model_folder: Callable[[str], Path], tickets: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(model_folder("llama"), tmp_path / "poisoned")
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"][0] = float("nan")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(
        TrainingError, match=r"^step 1: the loss is nan before anything was learned\. Check the model's"
    ):
        train(make_spec(tickets, tmp_path / "run", folder))


def test_the_same_spec_gives_the_same_weights(tickets: Path, tmp_path: Path) -> None:
    results = [
        train(make_spec(tickets, tmp_path / name, adapter={"kind": "lora", "dropout": 0.1})) for name in ("a", "b")
    ]
    first, second = ((result.run.adapter / "adapter_model.safetensors").read_bytes() for result in results)
    assert first == second


def test_an_existing_run_is_not_overwritten(tickets: Path, tmp_path: Path) -> None:
    (tmp_path / "spec.yaml").write_text("model: embedded\n")
    with pytest.raises(RunError, match="already holds a run; go on with --resume"):
        train(make_spec(tickets, tmp_path))


def test_there_must_be_a_run_to_resume(tickets: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="not a run folder"):
        train(make_spec(tickets, tmp_path / "run"), resume=True)


def test_resuming_with_another_spec_names_the_changed_key(tickets: Path, tmp_path: Path) -> None:
    train(make_spec(tickets, tmp_path / "run"))
    with pytest.raises(SpecError, match=r"training\.batch_size is not what the run was started with"):
        train(make_spec(tickets, tmp_path / "run", training={"batch_size": 4}), resume=True)


def test_resuming_on_changed_data_is_refused(tickets: Path, tmp_path: Path) -> None:
    spec = make_spec(tickets, tmp_path / "run")
    train(spec)
    lines = tickets.read_text().splitlines()
    tickets.write_text("\n".join(lines[:-1]) + "\n")
    with pytest.raises(RunError, match="the training data is not what the run was started with"):
        train(spec, resume=True)


def leaves_nothing(output: Path) -> bool:
    return not output.exists()


def test_a_missing_data_file_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere\.jsonl"):
        train(make_spec(tmp_path / "nowhere.jsonl", tmp_path / "run"))
    assert leaves_nothing(tmp_path / "run")


def test_a_model_folder_without_a_tokenizer_leaves_nothing(
    model_folder: Callable[[str], Path], tickets: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(model_folder("llama"), folder, ignore=shutil.ignore_patterns("tokenizer*"))
    with pytest.raises(ModelError, match="the folder has no tokenizer"):
        train(make_spec(tickets, tmp_path / "run", folder))
    assert leaves_nothing(tmp_path / "run")


def test_a_tokenizer_of_another_model_is_refused(tickets: Path, tmp_path: Path) -> None:
    from tiny_models import make_model

    make_model("llama").save_pretrained(tmp_path / "model")
    for file in embedded_model().glob("*token*"):
        shutil.copy(file, tmp_path / "model")
    for file in embedded_model().glob("chat_template*"):
        shutil.copy(file, tmp_path / "model")
    with pytest.raises(ModelError, match=r"its tokenizer gives token \d+, its embedding has 96"):
        train(make_spec(tickets, tmp_path / "run", tmp_path / "model"))
    assert leaves_nothing(tmp_path / "run")


def test_rows_with_nothing_left_to_train_on_are_named(tickets: Path, tmp_path: Path) -> None:
    with tickets.open("a") as file:
        messages = [{"role": "user", "content": "word " * 300}, {"role": "assistant", "content": "card"}]
        file.write(json.dumps({"messages": messages}) + "\n")
    with pytest.raises(DataError, match=r"tickets\.jsonl:41.*max_length"):
        train(make_spec(tickets, tmp_path / "run", data={"holdout": 0}))
    assert leaves_nothing(tmp_path / "run")


def test_replies_marked_as_bad_are_not_imitated(tmp_path: Path) -> None:
    path = tmp_path / "kto.jsonl"
    path.write_text('{"prompt": "Hello", "completion": "Go away", "label": false}\n' * 4)
    with pytest.raises(DataError, match=r"kto\.jsonl:1: labelled as a reply not to imitate"):
        train(make_spec(path, tmp_path / "run"))


def test_an_output_that_is_a_file_is_refused(tickets: Path, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="is a file"):
        train(make_spec(tickets, tickets / "run"))
