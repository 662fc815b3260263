"""Importing torch, transformers and PEFT, which is most of the time until a run's first step."""

import gc
import importlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType
from typing import Any


@contextmanager
def heavy_imports() -> Iterator[None]:
    """Collect no garbage while the block imports, and never look through what it made.

    Libraries make a million objects that stay; the collector would go through them again and again, which is a tenth
    of the processor time of importing them, and once more in full soon after.
    What they import of others and training does not call is put off: a quarter of the rest.
    """
    was_on = gc.isenabled()
    gc.collect()  # what is garbage now shall not be kept with what stays
    gc.disable()
    try:
        _import_bitsandbytes()
        _import_models()
        _import_losses()
        yield
    finally:
        gc.freeze()
        if was_on:
            gc.enable()


def _import_bitsandbytes() -> None:
    """As PEFT does wherever it is installed, but without the compiler.

    It has torch compile four functions, for devices that it has no kernels of its own for: these stay as written.
    """
    switch = "TORCHDYNAMO_DISABLE"
    before = os.environ.get(switch)
    os.environ[switch] = "1"
    try:
        with suppress(ImportError):
            importlib.import_module("bitsandbytes")
    finally:
        del os.environ[switch]
        if before is not None:
            os.environ[switch] = before


def _import_models() -> None:
    """transformers' names of models, for which it has read all their sources: here it would read them once more.

    What it remembers of a folder it does not find by the name of a file therein, and of the folders below too few.
    """
    from transformers.utils import import_utils

    name = "create_import_structure_from_path"
    names_in = getattr(import_utils, name, None)
    if names_in is None:  # in another version
        return
    setattr(import_utils, name, lambda path: names_in(Path(path).parent if Path(path).is_file() else path))
    try:
        importlib.import_module("transformers.models")
    finally:
        setattr(import_utils, name, names_in)


def _import_losses() -> None:
    """transformers', all of which every model imports; those of object detection get their SciPy when it is called."""
    name = "scipy.optimize"
    if name in sys.modules:
        return
    stand_in: Any = ModuleType(name)
    stand_in.linear_sum_assignment = _linear_sum_assignment
    sys.modules[name] = stand_in
    try:
        importlib.import_module("transformers.loss.loss_utils")
    finally:
        del sys.modules[name]


def _linear_sum_assignment(*args: Any, **kwargs: Any) -> Any:
    from scipy.optimize import linear_sum_assignment

    return linear_sum_assignment(*args, **kwargs)
