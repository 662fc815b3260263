"""The type of the fixture that makes evaluated runs."""

from collections.abc import Callable
from typing import TypeAlias

from tunesmith.run_folder import RunFolder

MakeRun: TypeAlias = Callable[..., RunFolder]
