"""Tunesmith: fine-tune only when it pays, and prove that it did.

Every verb of the command line is a function here: `tunesmith.train("run.yaml")`. They are looked up on first use,
so importing the package imports nothing heavy. No module of the package may bear a verb's name: importing it would
hide the function.
"""

import logging
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tunesmith.api import advise, bench, chat, check, compare, eject, evaluate, export, plan, train
    from tunesmith.walkthrough import demo

# Where bitsandbytes is installed, PEFT and Accelerate import it, and it notes on every start that it lacks a kernel.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)

__all__ = ["advise", "bench", "chat", "check", "compare", "demo", "eject", "evaluate", "export", "plan", "train"]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module 'tunesmith' has no attribute {name!r}")
    return getattr(import_module("tunesmith.walkthrough" if name == "demo" else "tunesmith.api"), name)
