"""What the models said, compared: every metric of the replies alone, which hosted models have as local ones do."""

from collections.abc import Sequence

import msgspec

from tunesmith.dataset.conversation import Conversation
from tunesmith.dataset.prompting import reference, shown_prompt
from tunesmith.evaluation.asked_metrics import AskedMetrics
from tunesmith.evaluation.comparison import Replies, Systems, compare_overlap, compare_replies, headline_score
from tunesmith.evaluation.evaluated_rows import SEED
from tunesmith.evaluation.metrics import Task
from tunesmith.evaluation.result import MetricComparison, Sample


def compare_said(
    task: Task,
    rows: Sequence[Conversation],
    replies: Replies,
    asked_metrics: AskedMetrics,
    sampled: Systems[list[list[str]]],
) -> tuple[list[MetricComparison], list[str]]:
    """The metrics of the replies to `rows`, the headline first; beside them what was skipped and why.

    `sampled` are further replies to each row, for pass@k. Raises SandboxError.
    """
    references = [reference(row) for row in rows]
    coded, untested = asked_metrics.of_code(rows, replies, sampled)
    overlap, missing = compare_overlap(replies, references) if task == "free text" else ([], [])
    others = asked_metrics.of_text([shown_prompt(row.prompt) for row in rows], references, replies)
    return [*coded, *compare_replies(task, replies, references), *overlap, *others], [*untested, *missing]


def say_if_sampled(metric: MetricComparison, answerable: int) -> MetricComparison:
    """`metric`, its method saying so where only a sample of the `answerable` rows got a reply."""
    if metric.rows == answerable:
        return metric
    note = f"replies to a sample of {metric.rows} of {answerable} rows, seed {SEED}"
    return msgspec.structs.replace(metric, method=f"{metric.method}; {note}")


def samples(task: Task, rows: Sequence[Conversation], asked: Sequence[int], replies: Replies) -> tuple[Sample, ...]:
    """What each model said to the rows numbered `asked`, with the headline metric's score of each reply."""
    score = headline_score(task)
    found = []
    for place, index in enumerate(asked):
        wanted, base, tuned = reference(rows[index]), replies.base[place], replies.tuned[place]
        prompted = None if replies.prompted is None else replies.prompted[place]
        found.append(
            Sample(
                row=index,
                prompt=shown_prompt(rows[index].prompt),
                reference=wanted,
                base=base,
                tuned=tuned,
                base_score=score(base, wanted),
                tuned_score=score(tuned, wanted),
                prompted=prompted,
                prompted_score=None if prompted is None else score(prompted, wanted),
            )
        )
    return tuple(found)
