"""What the report shows of an evaluation beside its table."""

import msgspec
from synthetic_run import SAMPLES, evaluation

from tunesmith.evaluation.result import Confusion, Estimate, Evaluation, Verdict
from tunesmith.report.comparison import LARGEST_MATRIX, matrices, row_outcomes
from tunesmith.report.html import write_report
from tunesmith.run_folder import RunFolder

CONFUSION = Confusion(("billing", "refund"), ((0, 1, 9), (2, 2, 6)), ((9, 1, 0), (0, 10, 0)))


def rich() -> Evaluation:
    """An evaluation with a prompted base, a confusion matrix, scored rows and a metric with a signature."""
    plain = evaluation(
        tuple(
            msgspec.structs.replace(sample, base_score=0.0, tuned_score=float(sample.row % 3 > 0), prompted_score=1.0)
            for sample in SAMPLES
        )
    )
    first = msgspec.structs.replace(
        plain.metrics[0],
        prompted=Estimate(0.4, 0.3, 0.5),
        over_prompted=Estimate(0.511, 0.4, 0.6),
        p=0.0005,
        detectable=0.07,
        top=1.0,
        signature="nrefs:1|case:mixed",
    )
    return msgspec.structs.replace(
        plain,
        metrics=(first, *plain.metrics[1:]),
        confusion=CONFUSION,
        prompt="Answer with one label.",
        skipped=("3 rows carry tests of code: --run-code runs the models' replies against them",),
        verdicts=(*plain.verdicts, Verdict("adapter", "note", "The adapter is not merged.", "adapter/", "Merge it.")),
    )


def page(run: RunFolder) -> str:
    run.evaluation.write_bytes(msgspec.json.encode(rich()))
    return write_report(run).read_text(encoding="utf-8")


def test_rows_are_counted_by_which_model_does_better() -> None:
    outcomes, over_prompted = row_outcomes(rich().samples)
    assert (outcomes.rival, over_prompted.rival) == ("base", "prompted base")
    assert (outcomes.better, outcomes.same, outcomes.worse) == (8, 4, 0)
    assert row_outcomes(SAMPLES) == []


def test_the_confusion_matrix_shades_by_share_and_marks_what_is_right() -> None:
    tuned, base = matrices(CONFUSION)
    assert [(cell.count, cell.heat, cell.right) for cell in tuned.rows[0]] == [
        (9, 5, True),
        (1, 1, False),
        (0, 0, False),
    ]
    assert base.name == "base"


def test_a_matrix_of_many_classes_is_left_out() -> None:
    classes = tuple(map(str, range(LARGEST_MATRIX + 1)))
    counts = tuple((0,) * (len(classes) + 1) for _ in classes)
    assert matrices(Confusion(classes, counts, counts)) == []


def test_the_report_shows_the_prompted_base_p_values_signatures_and_the_smallest_difference(
    full_run: RunFolder,
) -> None:
    text = page(full_run)
    for shown in ("Prompted", "0.400", "p &lt;0.001", "nrefs:1|case:mixed", "Answer with one label.", "--run-code"):
        assert shown in text
    assert "45 rows cannot show a difference in exact match under 0.070" in text
    assert 'class="confusion"' in text


def test_verdicts_of_the_run_are_marked_on_its_curves(full_run: RunFolder) -> None:
    assert 'class="flag warn"><title>Validation loss is flat.' in page(full_run)


def test_the_adapters_verdict_is_gone_once_it_is_merged(full_run: RunFolder) -> None:
    assert "The adapter is not merged." in page(full_run)
    full_run.merged.mkdir()
    assert "The adapter is not merged." not in page(full_run)


def test_a_general_loss_is_marked_only_where_its_verdict_is_an_alarm() -> None:
    plain = evaluation(SAMPLES)
    worse = msgspec.structs.replace(plain.metrics[3], difference=Estimate(0.015, 0.009, 0.023), significant=True)
    assert plain.change(worse) == "none"  # the verdict says: no sign of forgetting
    alarmed = msgspec.structs.replace(plain, verdicts=(Verdict("forgetting", "warn", "It forgot.", "", ""),))
    assert alarmed.change(worse) == "bad"
    assert alarmed.change(msgspec.structs.replace(worse, name="exact match", better="higher")) == "good"
    assert plain.change(msgspec.structs.replace(worse, name="loss")) == "bad"


def test_scores_of_right_or_wrong_are_one_bar_and_graded_ones_a_column_a_row() -> None:
    right_or_wrong, _ = row_outcomes(rich().samples)
    assert "better 67%, the same 33%, worse 0%" in right_or_wrong.chart
    graded = [msgspec.structs.replace(sample, tuned_score=0.4) for sample in SAMPLES]
    assert row_outcomes(graded)[0].chart.count('class="gain"') == 2 * len(SAMPLES)
