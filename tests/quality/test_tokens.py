from pathlib import Path

import numpy as np
import pytest

from tunesmith.assets import sample
from tunesmith.dataset.conversation import Conversation, Message
from tunesmith.dataset.read import load
from tunesmith.dataset.render import Renderer
from tunesmith.dataset.write import write
from tunesmith.errors import ModelError
from tunesmith.models.load import load_tokenizer
from tunesmith.quality.checklist import check
from tunesmith.quality.report import Finding
from tunesmith.quality.tokens import padding_waste


def token_findings(path: Path) -> dict[str, Finding]:
    findings = check([path], model="embedded").findings
    return {finding.check: finding for finding in findings if finding.check.startswith("tokens")}


def chat(question: str, answer: str, weight: int | None = None) -> Conversation:
    return Conversation((Message("user", question), Message("assistant", answer, weight=weight)))


def test_the_counts_are_those_of_the_renderer() -> None:
    rendered = list(Renderer(load_tokenizer("embedded")).render_many(load(sample("tickets"))))
    facts = token_findings(sample("tickets"))["tokens"].facts
    assert facts["tokens_per_epoch"] == sum(len(row.tokens) for row in rendered)
    assert facts["trained_tokens_per_epoch"] == sum(int(row.supervised.sum()) for row in rendered)
    assert facts["longest"] == max(len(row.tokens) for row in rendered)


def test_the_proposed_max_length_is_the_shortest_that_keeps_99_percent_of_the_trained_tokens() -> None:
    rendered = list(Renderer(load_tokenizer("embedded")).render_many(load(sample("style"))))
    limit = token_findings(sample("style"))["tokens"].facts["max_length_that_keeps_99_percent"]
    trained = sum(int(row.supervised.sum()) for row in rendered)
    kept = [sum(int(row.supervised[:at].sum()) for row in rendered) / trained for at in (limit - 1, limit)]
    assert kept[0] < 0.99 <= kept[1]


def test_rows_longer_than_the_models_context_are_a_warning_that_says_what_is_lost(tmp_path: Path) -> None:
    rows = [chat(f"Count to {n}.", "one two three") for n in range(60)]
    rows.append(chat("Count on.", "one two three four " * 500))
    write(tmp_path / "rows.jsonl", rows)
    finding = token_findings(tmp_path / "rows.jsonl")["tokens"]
    assert (finding.status, finding.count, finding.rows[0].where) == ("warn", 1, f"{tmp_path / 'rows.jsonl'}:61")
    assert finding.facts["trained_tokens_cut_at_1024"] > 500
    assert "--set training.max_length=" in str(finding.command)


def test_rows_with_nothing_to_train_on_are_told(tmp_path: Path) -> None:
    rows = [chat(f"Count to {n}.", "one two three", weight=0 if n == 4 else None) for n in range(60)]
    write(tmp_path / "rows.jsonl", rows)
    finding = token_findings(tmp_path / "rows.jsonl")["tokens: untrained"]
    assert (finding.status, finding.count, finding.rows[0].where) == ("fail", 1, f"{tmp_path / 'rows.jsonl'}:5")


def test_a_missing_model_is_refused_before_any_row_is_read(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such folder"):
        check([tmp_path / "missing.jsonl"], model="./no-such-model")


def test_rows_of_one_length_need_no_padding() -> None:
    assert padding_waste(np.full(100, 50)) == (0, 0)


def test_grouping_by_length_wastes_far_less_than_padding_whole_batches() -> None:
    lengths = np.random.default_rng(0).integers(10, 1_000, 800)
    plain, grouped = padding_waste(lengths)
    assert 0.4 < plain < 0.6  # the longest of 16 uniform lengths is nearly the maximum, the mean is half of it
    assert grouped < plain / 4
