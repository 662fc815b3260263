"""Whether a run can start, or go on, in its output folder: asked before anything that costs time."""

import logging

import yaml

from tunesmith import storage
from tunesmith.errors import RunError, SpecError
from tunesmith.run_folder import RunFolder
from tunesmith.spec import RunSpec, dump_spec
from tunesmith.training.events import StartEvent, read_events

log = logging.getLogger(__name__)


def check_output(run: RunFolder, spec: RunSpec, *, resume: bool) -> None:
    """Raise RunError, SpecError or StorageError when the run can neither start nor go on in its folder."""
    if run.spec.exists() and not resume:
        raise RunError(f"output {run.root}: already holds a run; go on with --resume, or choose another output")
    if resume:
        changed = _changed_keys(run.load_spec(), spec)
        if changed:
            raise SpecError(
                f"{changed[0]} is not what the run was started with; resume with its own spec: "
                f"tunesmith train {run.spec} --resume"
            )
    storage.must_be_writable(run.root)


def warn_of_other_kernels(run: RunFolder, kernels: str) -> None:
    """Warn when a run that goes on with `kernels` was computed with others so far: they round differently."""
    before = [event.kernels for event in read_events(run.events) if isinstance(event, StartEvent)][-1:]
    if kernels and before not in ([], [""], [kernels]):
        log.warning(
            "%s: computed with %s kernels so far, from here on with %s ones, which round differently: it will not end "
            "bit-identical to a run that was never stopped", run.root, before[0], kernels,
        )  # fmt: skip


def _changed_keys(before: RunSpec, now: RunSpec) -> list[str]:
    """Keys whose values differ, but for the places where things are: a run folder may be moved, and so may a vLLM."""
    was, wanted = (yaml.safe_load(dump_spec(spec)) for spec in (before, now))
    for objective in (was["objective"], wanted["objective"]):
        for section in (objective, objective.get("policy", {})):
            section.pop("vllm_url", None)
    changed = ["model"] if was["model"] != wanted["model"] else []
    for section in ("data", "adapter", "objective", "training"):
        keys = dict.fromkeys((*was[section], *wanted[section]))
        changed += [f"{section}.{key}" for key in keys if was[section].get(key) != wanted[section].get(key)]
    return changed
