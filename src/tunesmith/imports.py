"""Importing torch, transformers and PEFT, which is most of the time until a run's first step."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def heavy_imports() -> Iterator[None]:
    """Collect no garbage while the block imports, and never look through what it made.

    Libraries make a million objects that stay; the collector would go through them again and again, which is a tenth
    of the processor time of importing them, and once more in full soon after.
    """
    was_on = gc.isenabled()
    gc.collect()  # what is garbage now shall not be kept with what stays
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if was_on:
            gc.enable()
