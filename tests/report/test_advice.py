"""The advice in the report: what was measured before training, with the reasons."""

import msgspec
import pytest
from tests.advice.planted import PlantedModel, right_label, tickets, wrong_label

from tunesmith.advice.advise import Asked, advise
from tunesmith.errors import RunError
from tunesmith.report.html import write_report
from tunesmith.run_folder import RunFolder


def test_every_way_of_asking_is_in_the_report_with_its_interval_and_the_way_to_the_decision(
    bare_run: RunFolder,
) -> None:
    model = PlantedModel(lambda prompt: wrong_label(prompt) if len(prompt) > 2 else right_label(prompt))
    advice = advise(tickets(), "meta-llama/Llama-3.1-8B", model, asked=Asked(rows=40))
    bare_run.advice.write_bytes(msgspec.json.encode(advice))
    text = write_report(bare_run).read_text(encoding="utf-8")
    for baseline in advice.baselines:
        score = baseline.score
        assert f"{baseline.name}: {score.value:.4g} ({score.low:.4g} to {score.high:.4g})" in text
    for said in (advice.summary, "target 95%", *(step.evidence for step in advice.steps), *advice.would_change):
        assert said in text.replace("&#39;", "'")


def test_advice_on_plain_text_has_no_baselines_to_draw(bare_run: RunFolder) -> None:
    rows = [msgspec.structs.replace(row, messages=(), text=row.messages[1].content) for row in tickets(30)]
    advice = advise(rows, "meta-llama/Llama-3.1-8B", PlantedModel(right_label))
    bare_run.advice.write_bytes(msgspec.json.encode(advice))
    text = write_report(bare_run).read_text(encoding="utf-8")
    assert "Should it be fine-tuned?" in text
    assert "What needs no training" not in text


def test_a_broken_advice_file_is_named(bare_run: RunFolder) -> None:
    bare_run.advice.write_text('{"instruction": "Answer."}')
    with pytest.raises(RunError, match=r"advice\.json"):
        write_report(bare_run)
