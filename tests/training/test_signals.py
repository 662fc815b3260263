"""Curves judged while a run goes on, and once it is over; whole runs are planted in evaluation/planted_runs.py."""

import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from test_train import make_spec

from tunesmith.errors import RunError
from tunesmith.training.curves import Curves, read_curves
from tunesmith.training.event_log import EventLog
from tunesmith.training.events import EndEvent, EvalEvent, Event, StartEvent, StepEvent, VerdictEvent, read_events
from tunesmith.training.run import train
from tunesmith.training.signals import judge_curves, judge_events, last_signals, live_signals


def curves(
    training: list[float], validation: list[float], kept: int | None = None, reason: str | None = None
) -> Curves:
    steps = tuple(range(10, 10 * len(training) + 10, 10))
    return Curves(steps, tuple(training), tuple(validation), kept, reason=reason)


def test_a_run_that_ends_worse_than_its_base_is_not_told_to_learn_faster() -> None:
    ended = Curves((10, 20, 30), (90.0, 60.0, 56.0), (107.0, 60.0, 55.0), 30, 7.9, "finished")
    verdict = judge_curves(ended)
    assert (verdict.name, verdict.status) == ("diverged", "bad")
    assert verdict.finding == "Worse than before training: validation loss 7.900 before, 55.000 at its best."
    assert verdict.mend.startswith("Lower training.learning_rate")


@pytest.mark.parametrize(
    ("planted", "status", "word"),
    [
        (curves([2.0, 1.0, 0.5, 0.2], [1.9, 1.2, 1.3, 1.6]), "bad", "Overfitted"),
        (curves([2.0, 1.0, 0.5, 0.2], [1.9, 1.2, 1.3, 1.6], kept=20), "warn", "were kept"),
        (curves([2.0, 1.0, 0.8, 0.6], [1.9, 1.2, 1.195, 1.19]), "warn", "Memorization"),
        (curves([2.0, 0.2, 0.04, 0.01], [1.9, 1.5, 1.3, 1.1]), "warn", "by heart"),
        (curves([], []), "warn", "No validation loss"),
        (curves([2.0, 1.99, 1.98], [2.0, 1.99, 1.99], reason="finished"), "warn", "hardly moved"),
        (curves([2.0, 1.99, 1.98], [2.0, 1.99, 1.99]), "good", "No sign"),  # it has only begun
        (curves([2.0, 1.5, 1.0, 0.7], [2.0, 1.5, 1.0, 0.7], reason="finished"), "warn", "still fell"),
        (curves([2.0, 1.5, 1.2, 1.1], [1.9, 1.5, 1.3, 1.2]), "good", "No sign"),
        (curves([2.0, 0.5, 0.02, 0.01], [1.0, 0.3, 0.015, 0.016]), "good", "No sign"),
        (curves([2.0, 1.0, 0.99, 0.98], [1.9, 1.2, 1.21, 1.2]), "good", "No sign"),
        (curves([2.0], [1.5]), "good", "No sign"),
        (curves([2.0], [1.5], reason="finished"), "good", "No sign"),  # one value has not moved
        (
            curves([1.0, 1.5, 2.0], [1.0, 1.6, 2.1]),
            "good",
            "No sign",
        ),  # both rise, too few to say more
    ],
)
def test_the_gravest_sign_is_read_off_the_curves(planted: Curves, status: str, word: str) -> None:
    verdict = judge_curves(planted)
    assert (verdict.status, word in verdict.finding) == (status, True), verdict
    assert (verdict.mend == "") == (status == "good")


def begin(eval_rows: int = 20) -> StartEvent:
    return StartEvent(0, 40, 100, eval_rows, 10, 100, 0, 0.0, "embedded", "fp32", 0.0)


def step(number: int, value: float) -> StepEvent:
    return StepEvent(number, value, 1e-4, 1.0, 100, 10, 0.1, 0.1)


def evaluation(number: int, value: float) -> EvalEvent:
    return EvalEvent(number, value, 90, 0.1, False)


OVERFITTING: list[Event] = [
    begin(), step(1, 2.0), evaluation(1, 1.9), step(2, 1.0), evaluation(2, 1.2), step(3, 0.5), evaluation(3, 1.35),
    step(4, 0.3), evaluation(4, 1.5), step(5, 0.2), evaluation(5, 1.7),
]  # fmt: skip


def run_live(events: list[Event]) -> list[Event]:
    """What a log would hold if `events` happened and every sign were recorded after them."""
    log: list[Event] = []
    for event in events:
        log.append(event)
        log += live_signals(log)
    return log


def test_an_alarm_is_raised_while_training_as_soon_as_it_is_sure_and_once() -> None:
    raised = [event for event in run_live(OVERFITTING) if isinstance(event, VerdictEvent)]
    assert [(verdict.name, verdict.step) for verdict in raised] == [("overfitting", 3)]
    assert "1.350 at step 3" in raised[0].evidence
    assert raised[0].signal == "training loss falls while validation loss rises"


def test_a_single_slightly_worse_evaluation_raises_no_alarm() -> None:
    events = [begin(), step(1, 2.0), evaluation(1, 1.2), step(2, 1.0), evaluation(2, 1.24), step(3, 0.9)]
    assert not any(isinstance(event, VerdictEvent) for event in run_live(events))


def test_a_run_without_held_out_rows_is_told_so_at_its_first_step() -> None:
    raised = [event for event in run_live([begin(0), step(1, 2.0), step(2, 1.0)]) if isinstance(event, VerdictEvent)]
    assert [(verdict.name, verdict.step) for verdict in raised] == [("no eval set", 1)]


def test_curves_are_read_from_the_event_log_without_its_torn_last_line(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    with EventLog(path) as log:
        for event in (step(1, 3.0), step(2, 1.0), evaluation(2, 1.5), step(3, 0.5), evaluation(3, 1.2)):
            log.record(event)
        log.record(EndEvent(3, "finished", 3, 1.0))
    path.write_bytes(path.read_bytes() + b'{"event": "ste')
    assert read_curves(read_events(path)) == Curves(
        (2, 3), (2.0, 0.5), (1.5, 1.2), 3, None, "finished", (3.0, 1.0, 0.5)
    )


def test_a_log_knows_what_was_kept_of_an_earlier_start(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    with EventLog(path) as log:
        log.record(step(1, 3.0))
        kept = log.size
        log.record(step(2, 2.0))
    with EventLog(path, keep_bytes=kept) as log:
        log.record(step(2, 2.5))
        assert log.events == [step(1, 3.0), step(2, 2.5)]


def test_a_log_by_hand_needs_no_more_than_steps_and_losses_in_any_order(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    steps = [{"event": "step", "step": step, "loss": 2 / step} for step in range(1, 41)]
    evals = [{"event": "eval", "step": step, "loss": abs(step - 15) / 10 + 1} for step in range(5, 45, 5)]
    other = [{"event": "checkpoint", "step": 40, "path": "x"}]
    path.write_text("".join(json.dumps(event) + "\n" for event in [*steps, *evals, *other]))
    assert [verdict.name for verdict in judge_events(read_events(path))] == ["overfitting"]


@pytest.mark.parametrize("loss", ["NaN", "Infinity", "null"])
def test_a_loss_that_is_no_number_has_diverged(tmp_path: Path, loss: str) -> None:
    path = tmp_path / "events.jsonl"
    lines = ['{"event": "step", "step": 1, "loss": 2.0}', f'{{"event": "step", "step": 2, "loss": {loss}}}']
    path.write_text("\n".join(lines))
    verdict = judge_events(read_events(path))[0]
    assert (verdict.name, verdict.status, verdict.step) == ("diverged", "bad", 2)


def test_too_few_rewards_for_a_trend_are_a_note_and_no_alarm() -> None:
    steps = [StepEvent(step, 0.1, 1e-4, 1.0, 100, 10, 0.1, 0.1, measures={"reward": 0.5}) for step in range(1, 6)]
    (verdict,) = judge_events([*steps, EndEvent(5)])
    assert (verdict.status, verdict.finding) == ("note", "Too few steps to see a trend in the reward.")
    assert last_signals(steps, EndEvent(5)) == ()


def test_a_line_that_is_no_event_is_named(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_text('{"event": "step", "step": 1, "loss": 2.0}\n{"event": "step", "step": 2}\n{}\n')
    with pytest.raises(RunError, match=r"events\.jsonl:2.*loss"):
        read_events(path)


def test_a_missing_event_log_has_no_events(tmp_path: Path) -> None:
    assert read_events(tmp_path / "events.jsonl") == []


def test_a_run_records_what_it_shows_beside_its_steps_and_tells_the_observer(tickets: Path, tmp_path: Path) -> None:
    seen: list[Event] = []
    training = {"steps": 2, "epochs": None}
    result = train(make_spec(tickets, tmp_path / "run", data={"holdout": 0}, training=training), observer=seen.append)
    kinds = [type(event).__name__ for event in read_events(result.run.events)]
    assert kinds == ["StartEvent", "StepEvent", "VerdictEvent", "StepEvent", "EndEvent"]
    assert seen == read_events(result.run.events)


@pytest.mark.slow
def test_a_real_run_on_random_answers_is_seen_to_overfit_while_it_trains(
    model_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    draw = random.Random(0)
    words = ["invoice", "parcel", "password", "refund", "order", "account", "phone", "card"]
    rows = [
        {"prompt": " ".join(draw.choices(words, k=6)) + f" {number}", "completion": " ".join(draw.choices(words, k=4))}
        for number in range(40)
    ]
    path = tmp_path / "noise.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    training = {"steps": 120, "epochs": None, "learning_rate": 5e-3, "early_stopping": None, "eval_every": 10}
    spec = make_spec(path, tmp_path / "run", model_folder("llama"), data={"holdout": 0.25}, training=training)
    events = read_events(train(spec).run.events)
    raised = [event.name for event in events if isinstance(event, VerdictEvent)]
    assert "overfitting" in raised
    assert len(raised) == len(set(raised))
