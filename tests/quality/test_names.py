"""Names and places through Presidio over a spaCy pipeline in a folder: checked, redacted, and nothing fetched."""

import importlib.util
import json
import socket
from pathlib import Path

import pytest

from tunesmith.errors import MissingDependencyError, ModelError, SpecError
from tunesmith.quality.checklist import check
from tunesmith.quality.clean import clean
from tunesmith.quality.pii.names import finder

ROW = {
    "prompt": "Ada Lovelace (ada@example.com) lives in London. Who is Ada Lovelace?",
    "completion": "Ada Lovelace of London is a mathematician; Grace Hopper is not.",
}


@pytest.fixture(scope="module")
def pipelines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders `names`, a pipeline that recognizes two people and a city, and `blank`, which recognizes nothing."""
    spacy = pytest.importorskip("spacy")
    pytest.importorskip("presidio_analyzer")
    folder = tmp_path_factory.mktemp("pipelines")
    spacy.blank("en").to_disk(folder / "blank")
    pipeline = spacy.blank("en")
    people = [{"label": "PERSON", "pattern": name} for name in ("Ada Lovelace", "Grace Hopper")]
    pipeline.add_pipe("entity_ruler").add_patterns([*people, {"label": "GPE", "pattern": "London"}])
    pipeline.to_disk(folder / "names")
    return folder


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(ROW) + "\n")
    return path


@pytest.mark.slow
@pytest.mark.usefixtures("no_network")
def test_names_are_redacted_with_the_same_placeholder_through_the_row(pipelines: Path, rows: Path) -> None:
    target = rows.with_name("clean.jsonl")
    clean(rows, target, redact_pii=True, names=str(pipelines / "names"))

    assert json.loads(target.read_text()) == {
        "prompt": "<PERSON_1> (<EMAIL_1>) lives in <LOCATION_1>. Who is <PERSON_1>?",
        "completion": "<PERSON_1> of <LOCATION_1> is a mathematician; <PERSON_2> is not.",
    }


@pytest.mark.slow
@pytest.mark.usefixtures("no_network")
def test_the_check_counts_names(pipelines: Path, rows: Path) -> None:
    report = check([rows], names=str(pipelines / "names"))

    found = next(finding for finding in report.findings if finding.check == "personal data")
    assert found.facts["kinds"] == {"PERSON": 4, "LOCATION": 2, "EMAIL": 1}


@pytest.mark.slow
def test_what_is_no_pipeline_of_names_is_told(pipelines: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="recognizes no entities"):
        finder(str(pipelines / "blank"))
    with pytest.raises(ModelError, match="no spaCy pipeline"):
        finder(str(tmp_path))
    with pytest.raises(ModelError, match="neither a folder nor an installed spaCy model"):
        finder("en_core_web_xxl")


def test_names_without_presidio_say_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match=r"tunesmith\[pii\]"):
        finder("en_core_web_sm")


def test_names_without_redaction_are_refused(rows: Path) -> None:
    with pytest.raises(SpecError, match="add --redact-pii"):
        clean(rows, rows.with_name("clean.jsonl"), drop_duplicates=True, names="en_core_web_sm")


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("something is fetched over the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
