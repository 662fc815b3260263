"""Is any class too common or too rare? A model learns the majority's answer first, and a rare class not at all."""

import difflib
import math

from tunesmith.quality.check import SHOWN_ROWS, ClassCount, Profile, counted, share
from tunesmith.quality.report import Finding, RowNote

WARN_IMBALANCE = 10.0
"""Rows of the most frequent class per row of the rarest."""

WARN_RAREST = 10
"""Fewer rows of a class than this are hardly learnt, whatever the others have."""

MOST_SHOWN_CLASSES = 100

FAIL_MAJORITY = 0.95
"""Answering always the same is then right 95% of the time."""


def balance(profile: Profile) -> tuple[Finding, ...]:
    """The class distribution: entropy (1.0 when even), rarest class, imbalance ratio, misspelt labels."""
    classes = profile.task.classes
    if profile.task.name != "classification":
        return ()
    if len(classes) < 2:
        problem = "no classes: outputs do not repeat" if not classes else f"one class only ({classes[0].name})"
        mend = "add rows of the other classes, or give the task with --task"
        return (Finding("balance", "fail", problem, count=len(profile.rows), mend=mend),)

    misspelt = _misspelt(classes)
    proper = [entry for entry in classes if entry.name not in misspelt]
    total = sum(entry.rows for entry in classes)
    largest, rarest = proper[0], proper[-1]
    imbalance = largest.rows / rarest.rows
    entropy = _entropy([entry.rows for entry in proper])
    facts = {
        "classes": len(proper),
        "entropy": round(entropy, 4),
        "imbalance": round(imbalance, 2),
        "largest": largest.name,
        "largest_rows": largest.rows,
        "rarest": rarest.name,
        "rarest_rows": rarest.rows,
        "rows_per_class": {entry.name: entry.rows for entry in classes[:MOST_SHOWN_CLASSES]},
    }
    finding = (
        f"{len(proper)} classes, entropy {entropy:.2f} of 1; largest {largest.name!r} {share(largest.rows, total)}, "
        f"rarest {rarest.name!r} {rarest.rows:,} rows; imbalance {imbalance:.1f} to 1"
    )
    findings = [Finding("balance", "pass", finding, facts=facts)]
    if imbalance >= WARN_IMBALANCE or rarest.rows < WARN_RAREST <= total / len(proper):
        rare = [entry for entry in proper if entry.rows * WARN_IMBALANCE <= largest.rows or entry.rows < WARN_RAREST]
        findings[0] = Finding(
            "balance",
            "fail" if largest.rows > FAIL_MAJORITY * total else "warn",
            finding,
            count=sum(entry.rows for entry in rare),
            rows=_rows_of(profile, {entry.name: f"one of {entry.rows} rows of {entry.name!r}" for entry in rare}),
            mend=f"collect more rows of {_names(rare)}, or keep fewer of {largest.name!r}",
            facts=facts,
        )
    if misspelt:
        count = sum(entry.rows for entry in classes if entry.name in misspelt)
        pairs = ", ".join(f"{wrong!r} for {right!r}" for wrong, right in list(misspelt.items())[:3])
        findings.append(
            Finding(
                "balance",
                "warn",
                counted(count, f"spell a class differently: {pairs}"),
                count=count,
                rows=_rows_of(profile, {wrong: f"{wrong!r}, elsewhere {right!r}" for wrong, right in misspelt.items()}),
                mend="write each class one way; two spellings are two answers to the model",
            )
        )
    return tuple(findings)


def _entropy(counts: list[int]) -> float:
    """Shannon entropy of the distribution over its maximum, log(classes)."""
    total = sum(counts)
    entropy = -sum(count / total * math.log(count / total) for count in counts)
    return entropy / math.log(len(counts)) if len(counts) > 1 else 1.0


def _misspelt(classes: tuple[ClassCount, ...]) -> dict[str, str]:
    """Rare spellings of a frequent class: equal but for case and punctuation, or a slip of a letter in a long name."""
    misspelt: dict[str, str] = {}
    frequent: dict[str, str] = {}
    for entry in classes:
        folded = "".join(letter for letter in entry.name.casefold() if letter.isalnum())
        if folded in frequent:
            misspelt[entry.name] = frequent[folded]
        elif entry.rows <= 0.05 * classes[0].rows and len(folded) >= 6 and folded.isalpha():
            close = difflib.get_close_matches(folded, frequent, n=1, cutoff=0.85)
            if close:
                misspelt[entry.name] = frequent[close[0]]
        frequent.setdefault(folded, entry.name)
    return misspelt


def _rows_of(profile: Profile, notes: dict[str, str]) -> tuple[RowNote, ...]:
    """The first rows whose class is one of `notes`."""
    rows = profile.rows
    found = []
    for index in range(len(rows)):
        name = rows.labels[index] or rows.outputs[index].strip()
        if name in notes:
            found.append(RowNote(rows.where(index), notes[name]))
            if len(found) == SHOWN_ROWS:
                break
    return tuple(found)


def _names(classes: list[ClassCount]) -> str:
    names = [repr(entry.name) for entry in classes[-3:]]
    return ", ".join(names) + (f" and {len(classes) - 3} more" if len(classes) > 3 else "")
