"""A run with every part and a checklist with every kind of fact, of plausible numbers."""

import math
import random

import msgspec

from tunesmith.evaluation.result import Estimate, Evaluation, MetricComparison, Sample, Verdict
from tunesmith.quality.report import CheckReport, Finding, RowNote
from tunesmith.run_folder import RunFolder
from tunesmith.training.events import EndEvent, EvalEvent, Event, StartEvent, StepEvent, VerdictEvent

STEPS = 84


def checklist() -> CheckReport:
    noise = random.Random(0)
    classes = {"billing": 132, "shipping": 118, "refund": 97, "account": 61, "technical": 34, "other": 8}
    return CheckReport(
        files=("tickets.jsonl",),
        rows=450,
        broken_rows=2,
        task="classification",
        task_reason="6 short outputs repeat over all rows",
        status="fail",
        seconds=0.42,
        findings=(
            Finding(
                "size",
                "warn",
                "450 rows: above the minimum of 50, below the 500 that are good for it.",
                0,
                mend="add about 50 rows",
                facts={"rows": 450, "minimum": 50, "good": 500, "excellent": 5000},
            ),
            Finding(
                "format",
                "fail",
                "2 rows cannot be read.",
                2,
                (
                    RowNote("tickets.jsonl:17:42", "$.messages[1].role: found 'asistant'; expected a role"),
                    RowNote("tickets.jsonl:203:1", "$: found a cut-off line; expected JSON"),
                ),
                "drop or repair them",
                "tunesmith data clean tickets.jsonl clean.jsonl --drop-broken",
            ),
            Finding(
                "balance",
                "warn",
                "The rarest class, other, has 8 rows: 16 times fewer than billing.",
                8,
                mend="collect more of the rare classes",
                facts={"classes": classes, "entropy": 2.21, "imbalance": 16.5},
            ),
            Finding(
                "diversity",
                "pass",
                "14 effective clusters; the largest holds 12% of the rows.",
                facts={
                    "largest_share": 0.12,
                    "effective_clusters": 14.2,
                    "themes": [["My parcel has not arrived", "Where is my parcel?"], ["I want a refund"]],
                },
            ),
            Finding(
                "tokens",
                "pass",
                "99% of the rows have at most 164 tokens.",
                facts={"lengths": [round(noise.lognormvariate(4.4, 0.35)) for _ in range(450)]},
            ),
            Finding("duplicates", "pass", "No duplicates."),
        ),
    )


def evaluation(samples: tuple[Sample, ...]) -> Evaluation:
    def compare(
        name: str, better: str, base: tuple[float, ...], tuned: tuple[float, ...], change: tuple[float, ...]
    ) -> MetricComparison:
        excludes_zero = change[1] > 0 or change[2] < 0
        method = "paired bootstrap, 10,000 draws"
        estimates = (Estimate(*base), Estimate(*tuned), Estimate(*change))
        return MetricComparison(name, better, *estimates, excludes_zero, 45, method)

    return Evaluation(
        run="runs/tickets",
        data="runs/tickets/holdout.jsonl",
        rows=45,
        task="classification",
        metrics=(
            compare("exact match", "higher", (0.133, 0.044, 0.244), (0.911, 0.822, 0.978), (0.778, 0.644, 0.889)),
            compare("loss", "lower", (2.412, 2.281, 2.547), (0.214, 0.151, 0.290), (-2.198, -2.341, -2.060)),
            compare("perplexity", "lower", (11.16, 9.79, 12.77), (1.239, 1.163, 1.337), (-9.92, -11.5, -8.6)),
            compare("general loss", "lower", (2.950, 2.80, 3.10), (2.991, 2.84, 3.14), (0.041, -0.02, 0.10)),
        ),
        verdicts=(
            Verdict(
                "help",
                "good",
                "Fine-tuning helped: exact match rose from 13% to 91%.",
                "exact match +0.778 (95% interval 0.644 to 0.889) on 45 rows",
                "",
            ),
            Verdict("forgetting", "good", "No sign of forgetting on general text.", "loss +0.041 (-0.02 to 0.10)", ""),
            Verdict(
                "overfitting",
                "warn",
                "Validation loss has been flat since step 56 while training loss kept falling.",
                "validation 0.221 to 0.219, training 0.180 to 0.121",
                "train for fewer epochs; early stopping kept step 70",
            ),
        ),
        samples=samples,
        seconds=9.3,
    )


CLASSIFY = "Classify the ticket.\n\n"

SAMPLES = (
    Sample(
        0,
        CLASSIFY + "My parcel was due on Monday and the tracking page still says that it is in the depot.",
        "shipping",
        "I am sorry about your parcel",
        "shipping",
    ),
    Sample(1, CLASSIFY + "You charged my card twice this month.", "billing", "billing card twice", "billing"),
    Sample(2, CLASSIFY + "I can not sign in since the update.", "account", "account", "technical"),
    Sample(
        3,
        "Extract.\n\nAnna Weber, born in 1984, lives in Basel.",
        '{"name": "Anna Weber", "city": "Basel"}',
        "Anna Weber lives in Basel.",
        '{"name": "Anna Weber", "city": "Bern"}',
    ),
    *(Sample(row, f"{CLASSIFY}Ticket number {row}.", "refund", "refund", "refund") for row in range(4, 12)),
)


def events() -> list[Event]:
    noise = random.Random(1)
    found: list[Event] = [StartEvent(0, STEPS, 405, 45, 73_728, 4_012_800, 3, 0.004, "embedded", "fp32", 1.8e9)]
    for step in range(1, STEPS + 1):
        loss = 0.12 + 2.3 * math.exp(-step / 18) + noise.gauss(0, 0.06) * math.exp(-step / 60)
        found.append(StepEvent(step, loss, 2e-4 * (1 - step / STEPS), 0.8, 1800, 64, 0.31, step / 26))
        if step % 14 == 0:
            found.append(EvalEvent(step, 0.215 + 2.2 * math.exp(-step / 17), 180, 0.4, step == 70))
    found.append(VerdictEvent(70, "memorizing", "warn", "Validation loss is flat.", "Stop early."))
    found.append(EndEvent(STEPS, "finished", 70, 31.2))
    return found


def write_events(run: RunFolder, found: list[Event]) -> None:
    run.events.write_bytes(b"".join(msgspec.json.encode(event) + b"\n" for event in found))
