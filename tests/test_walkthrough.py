"""The whole workflow on the embedded model, as a newcomer runs it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tunesmith.cli.demo import CHAPTERS

PROGRAM = "from tunesmith.cli.main import main; main()"


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The demo's run folder and what it printed; its output folder does not exist before.

    Other tests compute in one thread each; this one does as a newcomer's machine does.
    """
    output = tmp_path_factory.mktemp("demo") / "run"
    on_all_cores = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, "demo", "--output", str(output)],
        capture_output=True,
        text=True,
        check=False,
        env=on_all_cores | {"HF_HUB_OFFLINE": "1"},
    )
    assert done.returncode == 0, done.stderr
    return output, done.stdout


@pytest.mark.slow
def test_the_demo_tells_every_stage(demo: tuple[Path, str]) -> None:
    for chapter in (*(title for title, _ in CHAPTERS.values()), "Done in"):
        assert chapter in demo[1]


@pytest.mark.slow
def test_the_tuned_model_beats_its_base_by_more_than_chance(demo: tuple[Path, str]) -> None:
    evaluation = json.loads((demo[0] / "evaluation.json").read_bytes())
    accuracy, loss = (next(m for m in evaluation["metrics"] if m["name"] == name) for name in ("accuracy", "loss"))
    assert accuracy["difference"]["low"] > 0
    assert loss["difference"]["high"] < 0


@pytest.mark.slow
def test_the_tuned_model_kept_what_its_base_could(demo: tuple[Path, str]) -> None:
    evaluation = json.loads((demo[0] / "evaluation.json").read_bytes())
    assert {v["name"]: v["status"] for v in evaluation["verdicts"]}["forgetting"] != "bad"


@pytest.mark.slow
def test_the_run_folder_holds_what_the_contract_names(demo: tuple[Path, str]) -> None:
    for name in ("spec.yaml", "events.jsonl", "adapter", "merged", "evaluation.json", "report.html", "README.md"):
        assert (demo[0] / name).exists(), name
    page = (demo[0] / "report.html").read_text()
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "<script src" not in page


@pytest.mark.slow
def test_the_demo_does_not_write_over_a_run(demo: tuple[Path, str]) -> None:
    again = subprocess.run(
        [sys.executable, "-c", PROGRAM, "demo", "--output", str(demo[0])], capture_output=True, text=True, check=False
    )
    assert again.returncode == 2
    assert "already holds a run" in again.stderr
