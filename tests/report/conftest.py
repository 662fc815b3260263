from pathlib import Path

import msgspec
import pytest
from synthetic_run import SAMPLES, checklist, evaluation, events, write_events

from tunesmith.dataset.conversation import Conversation, Message
from tunesmith.planning.plan import make_plan
from tunesmith.quality.report import CheckReport
from tunesmith.run_folder import RunFolder
from tunesmith.spec import DataSpec, RunSpec, dump_spec


@pytest.fixture
def check_report() -> CheckReport:
    """A checklist's report with every kind of fact."""
    return checklist()


@pytest.fixture
def bare_run(tmp_path: Path) -> RunFolder:
    """A run of which only the spec is there."""
    run = RunFolder(tmp_path / "tickets")
    run.root.mkdir()
    spec = RunSpec(model="embedded", data=DataSpec(train="tickets.jsonl"), output=str(run.root))
    run.spec.write_text(dump_spec(spec))
    return run


@pytest.fixture
def full_run(bare_run: RunFolder, check_report: CheckReport) -> RunFolder:
    """A run with every part."""
    asked = ["Where is it? " * (index % 9 + 4) for index in range(450)]
    rows = [Conversation((Message("user", text), Message("assistant", "shipping"))) for text in asked]
    write_events(bare_run, events())
    bare_run.check.write_bytes(msgspec.json.encode(check_report))
    bare_run.plan.write_bytes(msgspec.json.encode(make_plan(rows, "HuggingFaceTB/SmolLM2-135M")))
    bare_run.evaluation.write_bytes(msgspec.json.encode(evaluation(SAMPLES)))
    return bare_run
