"""A training checkpoint as an adapter that can be served, as OpenAI serves the checkpoints of a job.

A checkpoint holds the parameters that learn under the names they have in the model; PEFT's format leaves the adapter's
own name out of them. The translation is made once, when somebody asks for it.
"""

import shutil
from pathlib import Path

from tunesmith.run_folder import RunFolder
from tunesmith.storage import atomic_folder

FOLDER = "checkpoint-adapters"


def checkpoint_adapter(run: RunFolder, step: int) -> Path | None:
    """The adapter folder of the checkpoint after `step`; None when there is none, or it is not of a LoRA adapter."""
    source = run.checkpoints / f"step-{step}" / "parameters.safetensors"
    config = run.adapter / "adapter_config.json"
    target = run.root.parent / FOLDER / f"step-{step}"
    if target.is_dir():
        return target
    if not source.is_file() or not config.is_file():
        return None
    from safetensors.torch import load_file, save_file

    parameters = load_file(source)
    if not all(".default." in name for name in parameters):
        return None
    with atomic_folder(target) as folder:
        save_file(
            {name.replace(".default.", "."): value for name, value in parameters.items()},
            folder / "adapter_model.safetensors",
        )
        shutil.copyfile(config, folder / "adapter_config.json")
    return target


def remove_checkpoint_adapters(run: RunFolder) -> None:
    """Remove what `checkpoint_adapter` has made."""
    shutil.rmtree(run.root.parent / FOLDER, ignore_errors=True)
