"""`engine: trl` leaves the same run folder, with TRL's numbers in it."""

import shutil
from pathlib import Path

import pytest
import torch
from test_train import make_spec, read_events

from tunesmith.assets import embedded_model
from tunesmith.errors import DataError, RunError, SpecError
from tunesmith.models.load import load_reward_model, load_tuned
from tunesmith.training.events import EndEvent, EvalEvent, Event, StartEvent, StepEvent
from tunesmith.training.run import train

pytest.importorskip("trl")

SETTINGS = {"steps": 3, "epochs": None, "batch_size": 4, "max_length": 96, "scheduler": "constant", "warmup": 0.0}


def test_trl_trains_the_same_run_into_the_same_folder(tickets: Path, tmp_path: Path) -> None:
    seen: list[Event] = []
    own = train(make_spec(tickets, tmp_path / "own", training=SETTINGS)).run
    result = train(make_spec(tickets, tmp_path / "run", engine="trl", training=SETTINGS), observer=seen.append)
    run = result.run
    assert seen == read_events(run)
    assert isinstance(seen[0], StartEvent)
    assert isinstance(seen[-1], EndEvent)
    steps = [event for event in seen if isinstance(event, StepEvent)]
    assert [event.step for event in steps] == [1, 2, 3]
    assert result.steps == 3
    assert all(event.tokens > 0 and event.seconds > 0 for event in steps)
    assert run.holdout.read_bytes() == own.holdout.read_bytes()
    assert run.load_spec().engine == "trl"
    first = [event for event in read_events(own) if isinstance(event, StartEvent | StepEvent)]
    assert isinstance(first[0], StartEvent)
    assert seen[0].trainable_parameters == first[0].trainable_parameters
    assert load_tuned(run, dtype=torch.float32) is not None
    names = {path.name for path in (run.root / "adapter").iterdir()}
    assert {path.name for path in (own.root / "adapter").iterdir()} == names
    with pytest.raises(RunError, match="engine: trl is not resumed"):
        train(run.load_spec(), resume=True)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["dpo", "reward", "grpo"])
def test_trl_trains_other_objectives(kind: str, pairs: Path, brevity: str, tmp_path: Path) -> None:
    objective: dict[str, object] = {"kind": kind}
    if kind == "grpo":
        objective |= {"reward": brevity, "num_generations": 2, "max_completion_length": 4}
    spec = make_spec(pairs, tmp_path / "run", engine="trl", objective=objective, training=SETTINGS | {"steps": 2})
    run = train(spec).run
    events = read_events(run)
    assert [event.step for event in events if isinstance(event, StepEvent)] == [1, 2]
    assert [event.step for event in events if isinstance(event, EvalEvent)]
    load = load_reward_model if kind == "reward" else load_tuned
    assert load(run, dtype=torch.float32) is not None


def test_what_trl_cannot_do_is_refused_in_a_line(pairs: Path, brevity: str, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"engine: trl has no ppo: TRL has no PPO trainer any more"):
        make_spec(pairs, tmp_path / "run", engine="trl", objective={"kind": "ppo", "reward": brevity})
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"instruction": "Say hi", "output": "hi"}\n' * 4)
    with pytest.raises(DataError, match="no rejected reply to compare with"):
        train(make_spec(rows, tmp_path / "run", engine="trl", objective={"kind": "dpo"}, training=SETTINGS))
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sft", "reward"])
def test_trl_follows_the_engines_losses_where_nothing_is_held_out(kind: str, tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(embedded_model(), model)
    template = model / "chat_template.jinja"  # TRL also learns what a template writes behind a reply: here, nothing
    template.write_text(template.read_text().replace("<|im_end|>\\n", "<|im_end|>"))
    rows = tmp_path / "rows.jsonl"
    rows.write_text(
        "".join(f'{{"prompt": "Say {n}", "chosen": "{"so " * (n % 5)}{n}", "rejected": "No."}}\n' for n in range(8))
    )
    # At 5e-3 Adam makes steps of what rounding left of gradients near zero, and losses are 1e-5 apart after five.
    training = SETTINGS | {"steps": 5, "batch_size": 8, "warmup": 0.4, "learning_rate": 1e-3, "precision": "fp32"}

    def losses(engine: str) -> list[float]:
        options = {"engine": engine, "objective": {"kind": kind}, "training": training, "data": {"holdout": 0}}
        spec = make_spec(rows, tmp_path / engine, model, **options)
        return [event.loss for event in read_events(train(spec).run) if isinstance(event, StepEvent)]

    assert losses("trl") == pytest.approx(losses("tunesmith"), rel=1e-6)
