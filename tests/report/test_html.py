import re
from html.parser import HTMLParser

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic_run import STEPS, evaluation, events, write_events

from tunesmith.errors import RunError
from tunesmith.evaluation.result import Sample
from tunesmith.report.html import write_report
from tunesmith.report.measures import smoothed
from tunesmith.report.samples import difference, outcomes
from tunesmith.run_folder import RunFolder
from tunesmith.spec import dump_spec
from tunesmith.training.events import EvalEvent, Event, StepEvent, VerdictEvent

HOSTILE = "<script>alert(1)</script> \" onload='x' </td>{{ 7*7 }}"


def page(run: RunFolder) -> str:
    return write_report(run).read_text(encoding="utf-8")


class Outline(HTMLParser):
    """What a browser would load and what a screen reader would read out."""

    VOID = frozenset({"meta"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.headings: list[int] = []
        self.unscoped = 0
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = dict(attrs)
        led = [value or "" for name, value in attrs if name in ("src", "href", "srcset", "action", "data")]
        self.loaded += [address for address in led if not address.startswith("#")]
        self.loaded += [tag] if tag in ("script", "link", "iframe", "object", "embed", "img") else []
        self.unscoped += tag == "th" and "scope" not in named
        self.headings += [int(tag[1])] if re.fullmatch(r"h[1-6]", tag) else []
        self.open += [] if tag in self.VOID else [tag]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_report_loads_nothing_and_runs_no_script(full_run: RunFolder) -> None:
    text = page(full_run)
    assert Outline(text).loaded == []
    assert not re.search(r"@import|url\(|https?://(?!www\.w3\.org)", text.split("</style>")[0])


def test_the_report_is_well_formed_and_accessible(full_run: RunFolder) -> None:
    outline = Outline(page(full_run))
    assert outline.open == []
    assert outline.unscoped == 0
    assert outline.headings.count(1) == 1
    assert all(after - before <= 1 for before, after in zip(outline.headings, outline.headings[1:], strict=False))


def test_every_part_of_the_run_is_in_the_report(full_run: RunFolder) -> None:
    text = page(full_run)
    for heading in (
        "Did it help?",
        "How it learned",
        "What they say",
        "The data",
        "The plan",
        "Make it again",
        "Warnings",
    ):
        assert f">{heading}</h2>" in text
    assert "Fine-tuning helped" in text
    assert "3 rows were truncated, losing 0.4%" in text
    for line in dump_spec(full_run.load_spec()).splitlines():
        assert line in text


def test_the_contents_lead_to_the_sections(full_run: RunFolder) -> None:
    text = page(full_run)
    anchors = re.findall(r'<li><a href="#(\w+)">', text)
    assert len(anchors) == 6
    assert all(f'id="{anchor}"' in text for anchor in anchors)


def test_the_curves_hold_every_point(full_run: RunFolder) -> None:
    curve, smooth, validation = re.findall(r'points="([^"]*)"', page(full_run))[:3]
    assert len(curve.split()) == len(smooth.split()) == STEPS
    assert len(validation.split()) == STEPS // 14


@pytest.mark.parametrize("missing", ["check", "plan", "evaluation", "events"])
def test_a_part_that_is_missing_is_left_out(full_run: RunFolder, missing: str) -> None:
    heading = {"check": "The data", "plan": "The plan", "evaluation": "Did it help?", "events": "How it learned"}[
        missing
    ]
    assert f">{heading}</h2>" in page(full_run)
    getattr(full_run, missing).unlink()
    assert f">{heading}</h2>" not in page(full_run)


def test_a_run_that_has_only_its_spec_has_a_report(bare_run: RunFolder) -> None:
    assert "Make it again" in page(bare_run)


def test_hostile_text_stays_text(full_run: RunFolder) -> None:
    sample = Sample(0, HOSTILE, HOSTILE, HOSTILE + " x", HOSTILE)
    full_run.evaluation.write_bytes(msgspec.json.encode(evaluation((sample,))))
    text = page(full_run)
    assert "<script" not in text
    assert "{{ 7*7 }}" in text
    assert Outline(text).loaded == []


def test_every_outcome_is_shown_and_the_worse_ones_come_first(full_run: RunFolder) -> None:
    text = page(full_run)
    assert [int(row) for row in re.findall(r"<h4>Row (\d+)</h4>", text)] == [3, 1, 2, 4, *range(5, 13)]
    titles = [
        "Worse than the base&#39;s",
        "Better than the base&#39;s",
        "No better, and not the",
        "The reference, from",
    ]
    places = [text.index(f"<h3>{title}") for title in titles]
    assert places == sorted(places)


def test_that_nothing_got_worse_is_said() -> None:
    worse, better, unchanged, right = outcomes([Sample(0, "p", "yes", "no", "yes"), Sample(1, "p", "yes", "no", "nay")])
    assert [outcome.rows for outcome in (worse, better, unchanged, right)] == [0, 1, 1, 0]
    assert outcomes([]) == []


def test_a_graded_score_decides_before_the_words_do() -> None:
    sample = Sample(0, "p", "a b c", "a b", "a", base_score=0.8, tuned_score=0.5)
    assert [outcome.rows for outcome in outcomes([sample])] == [1, 0, 0, 0]


def test_a_last_line_that_a_crash_cut_short_is_not_read(full_run: RunFolder) -> None:
    full_run.events.write_bytes(full_run.events.read_bytes() + b'{"event": "step", "st')
    assert "How it learned" in page(full_run)


def test_a_resumed_run_shows_each_step_once(full_run: RunFolder) -> None:
    write_events(full_run, [*events(), *events()[40:60]])
    assert len(re.findall(r'points="([^"]*)"', page(full_run))[0].split()) == STEPS


@pytest.mark.parametrize("part", ["check", "plan", "evaluation", "events"])
def test_a_broken_part_is_named(full_run: RunFolder, part: str) -> None:
    path = getattr(full_run, part)
    path.write_text("{}\n{}\n")
    with pytest.raises(RunError, match=re.escape(str(path))):
        write_report(full_run)


def test_a_run_of_one_step_says_its_loss(bare_run: RunFolder) -> None:
    write_events(bare_run, events()[:2])
    assert re.search(r"Too little for a curve. Step 1: training loss \d\.\d{3}\.", page(bare_run))


def test_a_run_without_a_finite_loss_says_so_and_its_verdict(bare_run: RunFolder) -> None:
    lines = [f'{{"event": "step", "step": {step}, "loss": null}}' for step in range(1, 6)]
    bare_run.events.write_text("\n".join([*lines, '{"event": "end", "step": 5}']))
    text = page(bare_run)
    assert "training loss not a number" in text
    assert "Diverged: the loss is no finite number any more." in text


def test_a_long_run_is_a_light_page(bare_run: RunFolder) -> None:
    start = msgspec.structs.replace(events()[0], total_steps=10_000)
    write_events(bare_run, [start, *(StepEvent(step, 1 + 99 * (step == 5000)) for step in range(1, 10_001))])
    text = page(bare_run)
    assert len(text) < 300_000
    assert ">100</text>" in text  # the one spike is there, and its axis


@given(st.text(max_size=60), st.text(max_size=60))
def test_the_pieces_of_a_difference_are_the_reply(reply: str, reference: str) -> None:
    pieces = difference(reply, reference)
    assert "".join(piece.text for piece in pieces) == reply
    assert not any(piece.differs for piece in difference(reply, reply))


def test_what_the_reference_lacks_is_marked() -> None:
    assert [(piece.text, piece.differs) for piece in difference("a big cat", "a cat")] == [
        ("a ", False),
        ("big ", True),
        ("cat", False),
    ]


@given(st.lists(st.floats(0, 10), min_size=1, max_size=50))
def test_smoothing_stays_within_the_values_and_keeps_a_constant(values: list[float]) -> None:
    assert min(values) - 1e-9 <= min(smoothed(values)) <= max(smoothed(values)) <= max(values) + 1e-9
    assert smoothed([2.0] * 5) == pytest.approx([2.0] * 5)


def test_the_measures_of_an_objective_are_drawn(bare_run: RunFolder) -> None:
    rewarded = [
        msgspec.structs.replace(event, measures={"reward": 0.1 * event.step, "kl": 0.01, "rewards/short/mean": 0.1})
        if hasattr(event, "loss")
        else event
        for event in events()
    ]
    write_events(bare_run, rewarded)
    text = page(bare_run)
    for title in ("Reward", "Reward: short", "Distance from the reference"):
        assert f"<h3>{title}</h3>" in text
    assert "Length of replies" not in text
    assert text.count("Held-out") > 0


def test_a_policy_is_shown_by_its_reward_first_and_beside_the_model_that_rewards_it(bare_run: RunFolder) -> None:
    learned = [event for event in events() if not isinstance(event, VerdictEvent)]

    def measured(**measures: float) -> list[Event]:
        """All that learned, its measures rising."""
        return [
            msgspec.structs.replace(e, measures={name: value * e.step for name, value in measures.items()})
            if isinstance(e, EvalEvent | StepEvent)
            else e
            for e in learned
        ]

    write_events(bare_run, measured(reward=0.01, kl=0.001))
    bare_run.reward_model.root.mkdir()
    bare_run.reward_model.spec.write_bytes(bare_run.spec.read_bytes())
    write_events(bare_run.reward_model, measured(accuracy=0.01))
    text = page(bare_run)
    titles = re.findall(r"<h[23][^>]*>([^<]+?)\s*<", text)
    shown = ["How it learned", "No sign of reward hacking.", "Reward", "Distance from the reference"]
    shown += ["The policy's loss", "Its reward model", "Loss", "Chosen reply scored higher"]
    assert [title for title in titles if title in shown] == shown
    assert "mean reward 0.145, then 0.705; KL from the reference 0.07" in text
    assert 'href="#reward-model"' in text


def test_a_log_without_verdicts_is_judged_in_the_report(bare_run: RunFolder) -> None:
    steps = [f'{{"event": "step", "step": {step}, "loss": {2 / step}}}' for step in range(1, 41)]
    evals = [f'{{"event": "eval", "step": {step}, "loss": {abs(step - 15) / 10 + 1}}}' for step in range(5, 45, 5)]
    bare_run.events.write_text("\n".join([*steps, *evals]))
    text = page(bare_run)
    assert "Overfitted: validation loss rose after step 15" in text
    assert text.count('class="flag bad"') == 2  # on the curves, drawn wide and narrow
