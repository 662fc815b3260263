"""The check for personal data: which rows hold what, without ever showing it.

It runs the redactor itself, so what this check reports is what `data clean --redact-pii` replaces.
"""

import functools
from collections import Counter
from collections.abc import Sequence

from msgspec import Struct, field

from tunesmith.quality.check import Flags, Profile, Row, clean_command, counted
from tunesmith.quality.pii.names import finder
from tunesmith.quality.redact import Finder, redact
from tunesmith.quality.report import Finding

SECRETS = frozenset({"API_KEY", "PRIVATE_KEY", "CREDIT_CARD"})
"""What a model must never learn to repeat: one row is a failure, where other kinds are a warning."""


class ObservedPii(Struct):
    """The rows of a batch that hold personal data, and how often each kind occurs in them."""

    flags: Flags = field(default_factory=Flags)
    kinds: Counter[str] = field(default_factory=Counter)


class PersonalData:
    """Rows that hold personal data (a `RowCheck`); names and places only with a spaCy pipeline `names`."""

    def __init__(self, *, names: str | None = None) -> None:
        self._names = names
        _finder(names)  # before the pass: what is missing is told at once, and forked workers inherit the model
        self._flags = Flags()
        self._kinds: Counter[str] = Counter()

    def observe(self, rows: Sequence[Row]) -> ObservedPii:
        """Look for personal data in each row's messages, tool calls, text and metadata."""
        observed = ObservedPii()
        find = _finder(self._names)
        for row in rows:
            redaction = redact(row.conversation, find)
            if redaction.found:
                observed.flags.flag(row, str(redaction))
                observed.kinds.update(redaction.found)
        return observed

    def add(self, observed: ObservedPii) -> None:
        """Gather one batch's flags."""
        self._flags.extend(observed.flags)
        self._kinds.update(observed.kinds)

    def findings(self, profile: Profile) -> tuple[Finding, ...]:
        """A failure where there are keys or cards, a warning for other kinds."""
        if not self._flags.count:
            return (
                Finding(
                    "personal data",
                    "pass",
                    "no personal data recognized"
                    + ("" if self._names else " (names are only looked for with --names)"),
                ),
            )
        named = ", ".join(f"{kind} {count:,}" for kind, count in self._kinds.most_common())
        return (
            Finding(
                "personal data",
                "fail" if SECRETS & self._kinds.keys() else "warn",
                counted(self._flags.count, f"hold personal data: {named}", whole=len(profile.rows)),
                count=self._flags.count,
                rows=self._flags.notes(),
                mend="replace it by placeholders; a model can repeat what it was trained on",
                command=clean_command(profile.files, "--redact-pii"),
                facts={"kinds": dict(self._kinds)},
            ),
        )


@functools.cache
def _finder(names: str | None) -> Finder:
    return finder(names)
