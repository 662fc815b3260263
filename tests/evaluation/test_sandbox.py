"""What a program may do in the sandbox, and what the kernel refuses it."""

from pathlib import Path

import numpy as np
import pytest

from tunesmith.dataset.conversation import Conversation
from tunesmith.evaluation.code_tests import pass_at_k, program, row_tests, solved
from tunesmith.evaluation.sandbox import run_program


@pytest.mark.parametrize(
    "code",
    [
        "import collections, json, math, re\nassert math.comb(5, 2) == 10",
        "open('notes', 'w').write('a')\nassert open('notes').read() == 'a'",
        "import threading\nt = threading.Thread(target=print)\nt.start()\nt.join()",
    ],
)
def test_honest_programs_pass(code: str) -> None:
    assert run_program(code) == "passed"


def test_a_failing_test_fails() -> None:
    assert run_program("assert 1 + 1 == 3") == "failed"


@pytest.mark.parametrize("code", ["import os\nos._exit(0)", "import sys\nsys.exit(0)", "raise SystemExit"])
def test_leaving_early_is_not_passing(code: str) -> None:
    assert run_program(code + "\nassert False") == "failed"


@pytest.mark.parametrize(
    "code",
    [
        "import socket\nsocket.socket()",
        "import socket\nsocket.socketpair()",
        "import os\nos.fork()",
        "import subprocess\nsubprocess.run(['true'])",
        "import os\nos.kill(os.getppid(), 9)",
        "import os\nos.chmod('/tmp', 0)",
        "x = bytearray(3 * 2**30)",
        "open('big', 'wb').write(bytes(32 * 2**20))",
    ],
)
def test_network_processes_signals_and_excess_are_refused(code: str) -> None:
    assert run_program(code) == "failed"


def test_files_outside_its_folder_cannot_be_made_changed_or_removed(tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.write_text("kept")
    for attempt in (
        f"open({str(tmp_path / 'new')!r}, 'w')",
        f"open({str(mine)!r}, 'a')",
        f"import os\nos.truncate({str(mine)!r}, 0)",
        f"import os\nos.unlink({str(mine)!r})",
        f"import os\nos.rename({str(mine)!r}, 'here')",
    ):
        assert run_program(attempt) == "failed", attempt
    assert mine.read_text() == "kept"
    assert list(tmp_path.iterdir()) == [mine]


@pytest.mark.parametrize("code", ["while True: pass", "import time\ntime.sleep(60)"])
def test_a_program_that_does_not_end_is_stopped(code: str) -> None:
    assert run_program(code, seconds=1) in ("timed out", "failed")  # by the wall clock, or by processor time


def row(**metadata: object) -> Conversation:
    return Conversation(metadata=metadata)


def test_tests_are_found_as_humaneval_mbpp_and_plain_rows_carry_them() -> None:
    assert row_tests(row(tests="assert f(1) == 1")) == "assert f(1) == 1"
    assert row_tests(row(test="def check(f): ...", entry_point="add")) == "def check(f): ...\ncheck(add)"
    assert row_tests(row(test_list=["assert a", "assert b"], test_setup_code="x = 1")) == "x = 1\nassert a\nassert b"
    assert row_tests(row(topic="tests")) is None


def test_the_code_of_a_reply_is_its_first_fenced_block_or_all_of_it() -> None:
    assert program("Here:\n```python\ndef f(): ...\n```\nDone.") == "def f(): ...\n"
    assert program("def f(): ...") == "def f(): ..."


def test_replies_are_judged_by_their_rows_tests() -> None:
    right, wrong = "def add(a, b): return a + b", "def add(a, b): return a - b"
    assert solved([[right, wrong], [wrong, wrong]], ["assert add(2, 2) == 4"] * 2).tolist() == [1.0, 0.0]


def test_pass_at_k_is_chens_unbiased_estimator() -> None:
    # Chen et al. (2021), figure 3: 1 - prod((n - c - i) / (n - i) for i in range(k))
    n, c, k = 20, 7, 5
    expected = 1 - np.prod(1 - k / np.arange(n - c + 1, n + 1))
    assert pass_at_k(np.array([float(c)]), n, k)[0] == pytest.approx(expected, abs=1e-12)
    assert pass_at_k(np.array([0.0, 1.0, 20.0]), n, 20).tolist() == [0.0, 1.0, 1.0]
