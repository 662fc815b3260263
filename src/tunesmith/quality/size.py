"""Are there enough rows for the task? The table of `planning.data_facts`, and two floors that hold for any task."""

from tunesmith.planning.data_facts import CHARACTERS_PER_TOKEN, RECOMMENDED_ROWS
from tunesmith.quality.check import Profile
from tunesmith.quality.report import Finding

FAIL_BELOW = 50
"""Fewer rows teach nothing that a few-shot prompt would not."""

WARN_BELOW = 200
"""The usual advice is to start with 200 good rows."""


def size(profile: Profile) -> tuple[Finding, ...]:
    """Rows against the minimum, good and excellent size of the task."""
    rows, task = len(profile.rows), profile.task.name
    minimum, good, excellent = RECOMMENDED_ROWS[task]
    tokens = profile.characters // CHARACTERS_PER_TOKEN
    have = f"{rows:,} rows, about {tokens:,} tokens"
    facts = {
        "rows": rows,
        "tokens_estimate": tokens,
        "minimum": minimum,
        "good": good,
        "excellent": excellent,
        "task": task,
    }
    more = f"{good:,} is good, {excellent:,}+ excellent for {task}"

    if rows < FAIL_BELOW:
        return (
            Finding(
                "size",
                "fail",
                f"{have}: under {FAIL_BELOW}, too few to learn from ({more})",
                count=rows,
                mend="collect more rows; until then put the best of them into the prompt as few-shot examples",
                facts=facts,
            ),
        )
    if rows < max(minimum, WARN_BELOW):
        floor = f"the minimum for {task} is {minimum:,}" if rows < minimum else f"start with at least {WARN_BELOW}"
        return (
            Finding(
                "size",
                "warn",
                f"{have}: {floor} ({more})",
                count=rows,
                mend=f"collect {max(minimum, WARN_BELOW) - rows:,} more rows, the kinds the model gets wrong first",
                facts=facts,
            ),
        )
    rating = "excellent" if rows >= excellent else "good" if rows >= good else "above the minimum"
    return (Finding("size", "pass", f"{have}: {rating} for {task} ({more})", facts=facts),)
