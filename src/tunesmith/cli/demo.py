"""`tunesmith demo`: the whole workflow, told as a short story."""

from pathlib import Path

import click
from rich.console import Console
from rich.markup import escape

from tunesmith.advice.result import Advice
from tunesmith.cli.advise import print_advice
from tunesmith.cli.data import print_check
from tunesmith.cli.evaluate import print_evaluation
from tunesmith.cli.output import console, json_option, print_json
from tunesmith.cli.plan import print_plan
from tunesmith.cli.progress import TrainProgress
from tunesmith.evaluation.result import Evaluation
from tunesmith.planning.plan import Plan
from tunesmith.quality.report import CheckReport
from tunesmith.walkthrough import DemoResult, demo

CHAPTERS = {
    "check": ("1. Check the data", "before a minute of compute is spent on it"),
    "advise": ("2. Is it worth it?", "what a prompt, examples and retrieval would do without any training"),
    "plan": ("3. Plan the run", "memory, time and hyperparameters, each with its reason"),
    "spec": ("4. Train", "LoRA on the embedded base model, with general rows replayed so that it forgets little"),
    "evaluate": ("5. Did it help?", "base against tuned, on rows that training never saw"),
    "merge": ("6. Merge", "the adapter into plain weights that any program loads"),
}
"""The stage whose result opens each chapter → its title and what it is about."""


@click.command("demo")
@click.option("--output", metavar="DIR", help="Folder for the run; default: runs/demo, or runs/demo-2 and so on.")
@json_option
def command(output: str | None, as_json: bool) -> None:
    """Check, advise, plan, train, evaluate, merge and report on the ticket sample; under three minutes on two cores.

    \b
    Example:  tunesmith demo --output runs/demo
    """
    if as_json:
        print_json(demo(output))
        return
    out = console()
    with TrainProgress(out) as progress:
        result = demo(output, show=lambda stage, value: _tell(out, stage, value), observer=progress)
    _print_ending(out, result)


def _tell(out: Console, stage: str, result: object) -> None:
    """One chapter of the story, when its stage is done (for training: when it begins)."""
    from tunesmith.training.run import RunResult

    if stage in CHAPTERS:
        title, about = CHAPTERS[stage]
        out.print(f"\n[bold cyan]{title}[/] [dim]{about}[/]\n")
    match result:
        case CheckReport():
            print_check(out, result)
        case Advice():
            print_advice(out, result)
        case Plan():
            print_plan(out, result)
        case RunResult():
            out.print(f"\n  {escape(result.account())}")
        case Evaluation():
            print_evaluation(out, result)
        case Path() if stage == "merge":
            out.print(f"  {escape(str(result))}: logits equal base + adapter, loads in plain transformers")


def _print_ending(out: Console, result: DemoResult) -> None:
    out.print(f"\n[bold]Done in {result.seconds:.0f} s.[/] Everything is kept in {escape(str(result.output))}:")
    out.print(f"  report      {escape(str(result.report))}  (one file, open it in a browser)", soft_wrap=True)
    out.print(
        f"  spec        {escape(str(result.output))}/spec.yaml  (train again: change `output`, then `tunesmith train`)",
        soft_wrap=True,
    )
    out.print(f"  weights     {escape(str(result.merged))}", soft_wrap=True)
    out.print("\nNow with your own data:  tunesmith data check YOUR.jsonl")
