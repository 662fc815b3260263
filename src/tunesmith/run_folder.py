"""The run folder: the contract between training, evaluation, export, the report and outside tools."""

from dataclasses import dataclass
from pathlib import Path

from tunesmith.errors import RunError
from tunesmith.spec import RunSpec, load_spec


@dataclass(frozen=True)
class RunFolder:
    """Paths inside `runs/NAME/`. Making one touches nothing; `open_run` checks that the run is there."""

    root: Path

    @property
    def spec(self) -> Path:
        """The spec as resolved: every default written out."""
        return self.root / "spec.yaml"

    @property
    def events(self) -> Path:
        """One JSON object a line; see `tunesmith.training.events`."""
        return self.root / "events.jsonl"

    @property
    def checkpoints(self) -> Path:
        """Holds `step-N/` folders."""
        return self.root / "checkpoints"

    @property
    def adapter(self) -> Path:
        """The trained adapter in PEFT's format (absent for full fine-tuning)."""
        return self.root / "adapter"

    @property
    def model(self) -> Path:
        """The trained model in Hugging Face's layout (full fine-tuning only)."""
        return self.root / "model"

    @property
    def reward_model(self) -> "RunFolder":
        """The run that an rlhf run trains first."""
        return RunFolder(self.root / "reward")

    @property
    def rollouts(self) -> Path:
        """The adapter as it is now, for a vLLM that makes the run's replies to read; gone when the run stops."""
        return self.root / "rollouts"

    @property
    def trackers(self) -> Path:
        """What experiment trackers (`training.report_to`) keep on this machine."""
        return self.root / "trackers"

    @property
    def merged(self) -> Path:
        """Where `export --to merged` writes."""
        return self.root / "merged"

    @property
    def ejected(self) -> Path:
        """Where `eject` writes the rows that its script reads, and the script its model."""
        return self.root / "trl"

    @property
    def holdout(self) -> Path:
        """The rows held out of training, as JSONL: what `evaluate` uses by default."""
        return self.root / "holdout.jsonl"

    @property
    def check(self) -> Path:
        """The checklist's report on the training data; see `tunesmith.quality.report`."""
        return self.root / "check.json"

    @property
    def advice(self) -> Path:
        """What was measured before training, and whether to train at all; see `tunesmith.advice.result`."""
        return self.root / "advice.json"

    @property
    def plan(self) -> Path:
        """What the run was expected to take; see `tunesmith.planning.plan`."""
        return self.root / "plan.json"

    @property
    def evaluation(self) -> Path:
        """The base-against-tuned comparison; see `tunesmith.evaluation.result`."""
        return self.root / "evaluation.json"

    @property
    def provider(self) -> Path:
        """The job at a hosted provider that trains this run; see `tunesmith.providers.state`."""
        return self.root / "provider.json"

    @property
    def human(self) -> Path:
        """People's judgements, an SQLite file; see `tunesmith.evaluation.human.store`."""
        return self.root / "comparison.sqlite"

    @property
    def report(self) -> Path:
        """The self-contained HTML report."""
        return self.root / "report.html"

    @property
    def card(self) -> Path:
        """The model card."""
        return self.root / "README.md"

    @property
    def is_hosted(self) -> bool:
        """Whether a provider trains the run and its weights are not here."""
        return self.provider.is_file() and not self.adapter.is_dir()

    def load_spec(self) -> RunSpec:
        """The run's resolved spec. Raises RunError when this is not a run folder."""
        if not self.spec.is_file():
            raise RunError(f"{self.root}: not a run folder (no spec.yaml); give the `output` folder of a run")
        return load_spec(self.spec)


def open_run(path: str | Path) -> RunFolder:
    """The run folder at `path`, with its training finished. Raises RunError when it is not there or not done."""
    folder = RunFolder(Path(path))
    folder.load_spec()
    if folder.is_hosted:
        raise RunError(
            f"{folder.root}: the model is at a provider; fetch it with: tunesmith jobs download {folder.root} (not "
            "every provider gives out weights)"
        )
    if not folder.adapter.is_dir() and not folder.model.is_dir():
        raise RunError(
            f"{folder.root}: training has not finished; resume it with: tunesmith train {folder.spec} --resume"
        )
    return folder
