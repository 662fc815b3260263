"""Ranks as forks of the test: what a launcher does, without importing torch again."""

import os
import socket
import sys
import traceback
from collections.abc import Callable
from multiprocessing import get_context

import pytest
import torch
from accelerate import PartialState


def run_ranks(count: int, function: Callable[[], None], *, codes: tuple[int, ...] | None = None) -> None:
    """Call `function` in `count` processes that train together; each must end well, or with its exit code."""
    if torch.cuda.is_available():
        pytest.skip("a fork cannot use its parent's GPU, nor two ranks one")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = get_context("fork")
    processes = [context.Process(target=_rank, args=(rank, count, port, function)) for rank in range(count)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert tuple(process.exitcode for process in processes) == (codes or (0,) * count)


def _rank(rank: int, count: int, port: int, function: Callable[[], None]) -> None:
    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
    }  # fmt: skip
    PartialState._reset_state()
    # A fork's first use of torch's thread pool makes it anew, and transformers' loading threads would race to be first.
    torch.set_num_threads(1)
    code = 1
    try:
        function()
        code = 0
    except BaseException:  # noqa: BLE001  # a fork tells of it and ends
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)  # a fork must not run the test session's own ending
