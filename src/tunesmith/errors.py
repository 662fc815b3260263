"""The one exception family.

Every error a person can cause derives from `TunesmithError` and from the standard exception it is a kind of,
so callers may catch either. A message says what, where (`file:line:column`, `$.messages[2].role`, a spec key or
a flag) and the mend, in one or two lines; the command line prints it as it is and exits with 2.

To add one: derive from `TunesmithError` and the nearest standard exception, and raise it where the user's
input enters, before anything expensive.
"""


class TunesmithError(Exception):
    """Something the user can mend; the message says how."""


class DataError(TunesmithError, ValueError):
    """A data file cannot be read as rows, or holds rows that cannot be used."""


class SpecError(TunesmithError, ValueError):
    """A run spec, a flag or an argument is wrong."""


class ModelError(TunesmithError, ValueError):
    """A model or tokenizer cannot be found, loaded or used as asked."""


class RunError(TunesmithError, RuntimeError):
    """A run folder is missing, incomplete or in the wrong state for the verb."""


class StorageError(TunesmithError, OSError):
    """The disk refused: full, read-only, or a path that cannot be written."""


class TrainingError(TunesmithError, RuntimeError):
    """Training had to stop (for instance a loss that is not finite); the message says what to try."""


class MissingDependencyError(TunesmithError, ImportError):
    """An optional dependency is not installed; the message names the extra that brings it."""


class ProviderError(TunesmithError, RuntimeError):
    """A hosted provider refused or failed; the message says what it said and what to do."""


class ProviderUnreachableError(ProviderError, ConnectionError):
    """A provider could not be reached, or not just now: the same call may work a little later."""
