"""Tunesmith: fine-tune only when it pays, and prove that it did.

Every verb of the command line is a function here: `tunesmith.train("run.yaml")`. They are looked up on first use,
so importing the package imports nothing heavy. No module of the package may bear a verb's name: importing it would
hide the function.
"""

import logging
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tunesmith.api import (
        advise,
        bench,
        cancel_job,
        chat,
        check,
        compare,
        download_job,
        eject,
        evaluate,
        export,
        list_jobs,
        plan,
        submit_job,
        sweep,
        train,
        watch_job,
    )
    from tunesmith.dataset.convert import convert
    from tunesmith.dataset.split import split_file as split
    from tunesmith.quality.clean import clean
    from tunesmith.server.run import serve
    from tunesmith.walkthrough import demo

# Where bitsandbytes is installed, PEFT and Accelerate import it, and it notes on every start that it lacks a kernel.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)

__all__ = [
    "advise",
    "bench",
    "cancel_job",
    "chat",
    "check",
    "clean",
    "compare",
    "convert",
    "demo",
    "download_job",
    "eject",
    "evaluate",
    "export",
    "list_jobs",
    "plan",
    "serve",
    "split",
    "submit_job",
    "sweep",
    "train",
    "watch_job",
]

_ELSEWHERE = {
    "clean": "tunesmith.quality.clean:clean",
    "convert": "tunesmith.dataset.convert:convert",
    "demo": "tunesmith.walkthrough:demo",
    "serve": "tunesmith.server.run:serve",
    "split": "tunesmith.dataset.split:split_file",
}
"""The verbs that are whole where they lie; the others are put together in `tunesmith.api`."""


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module 'tunesmith' has no attribute {name!r}")
    module, _, function = _ELSEWHERE.get(name, f"tunesmith.api:{name}").partition(":")
    return getattr(import_module(module), function)
