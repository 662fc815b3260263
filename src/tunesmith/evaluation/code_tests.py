"""pass@k: the share of programming rows that one of k replies solves, judged by running each row's own tests.

A row carries its tests as HumanEval's (`test` with `check`, `entry_point`) or MBPP's (`test_list`) rows do, or plainly
as `tests`: code that follows the reply and raises when the reply is wrong. Running what a model wrote is asked for
explicitly (`--run-code`) and happens in `sandbox.py`.
"""

import math
import os
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from tunesmith.dataset.conversation import Conversation
from tunesmith.evaluation.sandbox import run_program
from tunesmith.evaluation.statistics import Values

FENCE = re.compile(r"```(?:python|py)?[ \t]*\n(.*?)(?:```|\Z)", re.DOTALL | re.IGNORECASE)


def row_tests(row: Conversation) -> str | None:
    """The code that tests a reply to `row`, or None when the row carries none."""
    found = row.metadata
    if isinstance(found.get("tests"), str):
        return str(found["tests"])
    if isinstance(found.get("test"), str) and isinstance(found.get("entry_point"), str):
        return f"{found['test']}\ncheck({found['entry_point']})"
    if isinstance(found.get("test_list"), list):
        return "\n".join([str(found.get("test_setup_code", "")), *map(str, found["test_list"])])
    return None


def program(reply: str) -> str:
    """The code in a reply: its first fenced block, or all of it."""
    fenced = FENCE.search(reply)
    return fenced.group(1) if fenced else reply


def solved(replies: Sequence[Sequence[str]], tests: Sequence[str]) -> Values:
    """How many of each row's replies pass its tests; (rows,). Raises SandboxError."""
    programs = [(row, f"{program(reply)}\n{tests[row]}\n") for row, said in enumerate(replies) for reply in said]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        outcomes = list(pool.map(run_program, (code for _, code in programs)))
    passed = np.zeros(len(tests))
    for (row, _), outcome in zip(programs, outcomes, strict=True):
        passed[row] += outcome == "passed"
    return passed


def pass_at_k(passed: Values, samples: int, k: int) -> Values:
    """Each row's unbiased estimate of pass@k from `passed` of `samples` replies; (rows,).

    One minus the chance that k replies drawn from the samples all fail. Chen et al. (2021),
    https://arxiv.org/abs/2107.03374, equation 1.
    """
    ways = math.comb(samples, k)
    return np.array([1.0 - math.comb(samples - int(right), k) / ways for right in passed])
