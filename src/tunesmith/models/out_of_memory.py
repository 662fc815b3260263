"""One error for memory that runs out, on whatever device.

A GPU's allocator raises torch.OutOfMemoryError. A CPU's says the same in a plain RuntimeError, where a process has a
limit (as batch systems set it) or the machine has no more to promise.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

CPU_SAYS = "DefaultCPUAllocator: can't allocate memory"


@contextmanager
def as_out_of_memory() -> Iterator[None]:
    """Raise torch.OutOfMemoryError for a CPU's way of saying so, too."""
    try:
        yield
    except MemoryError as error:
        raise torch.OutOfMemoryError(str(error)) from error
    except RuntimeError as error:
        if CPU_SAYS not in str(error):
            raise
        raise torch.OutOfMemoryError(str(error)) from error
