"""A run folder whose evaluation holds a few replies of each model."""

import json
from pathlib import Path

import msgspec
import pytest
from evaluated_run import MakeRun

from tunesmith.evaluation.result import Evaluation, Sample
from tunesmith.run_folder import RunFolder


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    """`make_run(name, rows=6, prompted=False, tuned=…)`: an evaluated run and the file it was evaluated on."""

    def make(name: str = "tickets", rows: int = 6, prompted: bool = False, tuned: str = "tuned says") -> RunFolder:
        run = RunFolder(tmp_path / name)
        run.root.mkdir()
        lines = [
            {
                "messages": [
                    {"role": "system", "content": "Be kind."},
                    {"role": "user", "content": f"Question {row}?"},
                    {"role": "assistant", "content": f"Answer {row}."},
                ]
            }
            for row in range(rows)
        ]
        run.holdout.write_text("".join(json.dumps(line) + "\n" for line in lines))
        samples = tuple(
            Sample(
                row=row,
                prompt=f"system: Be kind.\n\nuser: Question {row}?",
                reference=f"Answer {row}.",
                base=f"base says {row}",
                tuned=f"{tuned} {row}",
                prompted=f"prompted says {row}" if prompted else None,
            )
            for row in range(rows)
        )
        evaluation = Evaluation(str(run.root), str(run.holdout), rows, "free text", (), (), samples, 1.0)
        run.evaluation.write_bytes(msgspec.json.encode(evaluation))
        return run

    return make
