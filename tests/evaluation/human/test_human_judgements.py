"""Duels, their order, the store, the results and the export, without the page."""

import dataclasses
import math
import random
from collections import Counter
from pathlib import Path

import choix
import krippendorff
import msgspec
import numpy as np
import pytest
from evaluated_run import MakeRun
from scipy.stats import binomtest

from tunesmith.dataset.read import load
from tunesmith.errors import DataError, RunError
from tunesmith.evaluation.human.duels import Board, first_stands_left, make_board, order_for
from tunesmith.evaluation.human.preferences import export_pairs
from tunesmith.evaluation.human.results import agreement, strengths, summarize
from tunesmith.evaluation.human.store import Judgement, Store
from tunesmith.evaluation.result import Evaluation
from tunesmith.run_folder import RunFolder


def judged(row: int, choice: str, rater: str = "ann", first: str = "tuned", second: str = "base") -> Judgement:
    return Judgement(rater, row, first, second, choice, "", 2.0, float(row))  # type: ignore[arg-type]


def test_each_row_is_a_duel_of_base_and_tuned(make_run: MakeRun) -> None:
    board = make_board([make_run()])
    assert board.models == ("base", "tuned")
    assert [(duel.row, duel.first_reply, duel.second_reply) for duel in board.duels][:1] == [
        (0, "tuned says 0", "base says 0")
    ]


def test_replies_that_are_the_same_are_left_out_and_counted(make_run: MakeRun) -> None:
    board = make_board([make_run(tuned="base  says")])
    assert (board.duels, board.identical) == ((), 6)


def test_a_prompted_base_and_other_runs_make_more_pairs(make_run: MakeRun) -> None:
    board = make_board([make_run("one", prompted=True), make_run("two", tuned="other says")])
    assert board.models == ("base", "prompted base", "tuned", "two")
    assert len(board.duels) == 6 * math.comb(4, 2)


def test_runs_that_answered_other_rows_are_refused(make_run: MakeRun) -> None:
    other = make_run("two")
    evaluation = msgspec.json.decode(other.evaluation.read_bytes(), type=Evaluation)
    strange = tuple(msgspec.structs.replace(sample, prompt="Else?") for sample in evaluation.samples)
    other.evaluation.write_bytes(msgspec.json.encode(msgspec.structs.replace(evaluation, samples=strange)))
    with pytest.raises(RunError, match="no common rows"):
        make_board([make_run("one"), other])


def test_a_run_that_was_not_evaluated_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="tunesmith evaluate"):
        make_board([RunFolder(tmp_path)])


def test_order_and_sides_are_shuffled_for_each_rater_and_stay(make_run: MakeRun) -> None:
    board = make_board([make_run(rows=200)])
    orders = {rater: [duel.row for duel in order_for(rater, board, "seed")] for rater in ("ann", "bob")}
    assert orders["ann"] != orders["bob"]
    assert orders["ann"] == [duel.row for duel in order_for("ann", board, "seed")]
    sides = [first_stands_left("ann", duel, "seed") for duel in board.duels]
    assert 70 <= sum(sides) <= 130  # a fair coin, 200 times: 100 with a standard deviation of 7


def test_a_judgement_is_there_for_the_next_process_and_replaces_an_earlier_one(
    make_run: MakeRun, tmp_path: Path
) -> None:
    duel = make_board([make_run()]).duels[0]
    store = Store(tmp_path / "judgements.sqlite")
    store.record("ann", duel, "first", seconds=3.0)
    store.record("ann", duel, "tie", note=" even \n")
    again = Store(tmp_path / "judgements.sqlite")
    assert again.seed == store.seed
    assert [(each.choice, each.note) for each in again.judgements("ann")] == [("tie", "even")]
    assert again.judgements("bob") == []


def test_a_judgement_of_replies_that_are_others_by_now_is_set_aside(make_run: MakeRun, tmp_path: Path) -> None:
    board, store = make_board([make_run()]), Store(tmp_path / "comparison.sqlite")
    store.record("ann", board.duels[0], "first")
    store.record("ann", board.duels[1], "second")
    assert store.set_aside_outdated(board) == 0
    changed = dataclasses.replace(board.duels[0], first_reply="something new")
    anew = dataclasses.replace(board, duels=(changed, *board.duels[1:]))
    assert store.set_aside_outdated(anew) == 1
    assert [(each.row, each.choice) for each in store.judgements()] == [(board.duels[1].row, "second")]
    store.record("ann", changed, "tie")
    assert store.set_aside_outdated(anew) == 0
    assert len(store.judgements()) == 2


def test_a_file_that_is_no_store_is_named(tmp_path: Path) -> None:
    path = tmp_path / "judgements.sqlite"
    path.write_text("not a database, but long enough to be read as one")
    with pytest.raises(RunError, match=r"judgements\.sqlite"):
        Store(path)


def test_results_count_wins_with_wilson_intervals_and_the_exact_sign_test(make_run: MakeRun) -> None:
    choices = ["first"] * 9 + ["second"] * 2 + ["tie"] * 3 + ["both bad"]
    board = make_board([make_run(rows=15)])
    pair = summarize("run", board, [judged(row, choice) for row, choice in enumerate(choices)]).pairs[0]
    assert (pair.first_wins, pair.second_wins, pair.ties, pair.both_bad) == (9, 2, 3, 1)
    expected = binomtest(9, 11)
    interval = expected.proportion_ci(method="wilson")
    assert pair.p == pytest.approx(expected.pvalue, abs=1e-12)
    assert pair.share is not None
    assert (pair.share.low, pair.share.high) == pytest.approx((interval.low, interval.high), abs=1e-12)


def test_agreement_is_krippendorffs_alpha_over_the_duels_that_several_judged() -> None:
    ann = ["first", "first", "second", "tie", "both bad", "first"]
    bob = ["first", "second", "second", "tie", "first", "first"]
    made = [
        judged(row, choice, rater) for rater, said in (("ann", ann), ("bob", bob)) for row, choice in enumerate(said)
    ]
    names = {"first": 0, "second": 1, "tie": 2, "both bad": 3}
    expected = krippendorff.alpha([[names[c] for c in ann], [names[c] for c in bob]], level_of_measurement="nominal")
    assert agreement(made) == pytest.approx(expected, abs=1e-12)
    assert agreement([judged(0, "first")]) is None
    assert agreement([judged(0, "first"), judged(0, "first", "bob")]) == 1.0


def test_strengths_find_the_planted_order_and_hold_the_truth() -> None:
    models, strength = ("base", "prompted base", "tuned"), {"base": 0.0, "prompted base": 1.0, "tuned": 2.0}
    draw = random.Random(0)
    made = []
    for row in range(150):
        for first, second in (("prompted base", "base"), ("tuned", "base"), ("tuned", "prompted base")):
            wins = draw.random() < 1 / (1 + math.exp(strength[second] - strength[first]))
            made.append(judged(row, "first" if wins else "second", first=first, second=second))
    found = strengths(models, made)
    assert [each.model for each in found] == ["tuned", "prompted base", "base"]
    for each in found:
        truth = 1 / (1 + math.exp(1.0 - strength[each.model]))
        assert each.chance.low <= truth <= each.chance.high


def test_strengths_are_choixs_fit_without_a_tie_in_the_way() -> None:
    made = [judged(0, "first"), judged(1, "first"), judged(2, "second"), judged(3, "first")]
    fitted = choix.ilsr_pairwise(2, [(1, 0)] * 3 + [(0, 1)], alpha=0.1)
    assert strengths(("base", "tuned"), made)[0].chance.value == pytest.approx(
        1 / (1 + np.exp(-(fitted[1] - fitted.mean()))), abs=1e-9
    )


def board_of(make_run: MakeRun) -> Board:
    return make_board([make_run()])


def test_preferences_are_exported_as_pairs_that_keep_the_prompts_turns(make_run: MakeRun, tmp_path: Path) -> None:
    made = [
        judged(0, "first"),
        judged(1, "second"),
        judged(2, "tie"),
        judged(3, "first"),
        judged(3, "second", "bob"),  # one against one: nobody is preferred
        judged(4, "both bad"),
    ]
    path = tmp_path / "pairs.jsonl"
    assert export_pairs(path, board_of(make_run), made) == 2
    rows = load(path)
    assert [message.role for message in rows[0].prompt] == ["system", "user"]
    assert [(row.completion[0].content, row.rejected[0].content) for row in rows] == [
        ("tuned says 0", "base says 0"),
        ("base says 1", "tuned says 1"),
    ]


def test_prompts_are_kept_as_text_when_the_evaluated_file_is_gone(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run()
    board = make_board([run])
    run.holdout.unlink()
    export_pairs(tmp_path / "pairs.jsonl", board, [judged(0, "first")])
    assert load(tmp_path / "pairs.jsonl")[0].prompt[0].content == "system: Be kind.\n\nuser: Question 0?"


def test_nothing_to_export_says_so_and_writes_nothing(make_run: MakeRun, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no preferences"):
        export_pairs(tmp_path / "pairs.jsonl", board_of(make_run), [judged(0, "tie")])
    assert not (tmp_path / "pairs.jsonl").exists()


def test_raters_are_counted(make_run: MakeRun) -> None:
    made = [judged(0, "first"), judged(1, "tie"), judged(0, "first", "bob")]
    results = summarize("run", board_of(make_run), made)
    assert Counter({rater.name: rater.judged for rater in results.raters}) == {"ann": 2, "bob": 1}
