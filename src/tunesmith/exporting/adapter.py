"""The adapter as PEFT and the hub expect it: its own folder with the tokenizer and the model card.

It is a few megabytes where merged weights are gigabytes, and it still needs its base model when it is loaded.
"""

import json
import shutil
from pathlib import Path

from tunesmith import storage
from tunesmith.errors import SpecError
from tunesmith.exporting.card import card_text, is_hub_id
from tunesmith.exporting.merge import must_be_free
from tunesmith.models.load import load_tokenizer
from tunesmith.run_folder import RunFolder

_CONFIG = "adapter_config.json"


def write_adapter(run: RunFolder, output: Path | None = None) -> Path:
    """Write the run's adapter, tokenizer and card to the folder `output` (default: `RUN/peft`), and return it.

    The base is named in its config only when it is a hub id: a folder of this machine is of no use elsewhere.
    Raises SpecError when the run trained all parameters, or the output holds something already.
    """
    output = run.root / "peft" if output is None else output
    must_be_free(output)
    if not run.adapter.is_dir():
        raise SpecError(f"{run.root}: all parameters were trained, so there is no adapter; use --to merged")
    spec = run.load_spec()
    with storage.atomic_folder(output) as folder:
        for file in run.adapter.iterdir():
            if file.name not in ("README.md", _CONFIG):  # PEFT's README is an empty form
                shutil.copyfile(file, folder / file.name)
        config = json.loads((run.adapter / _CONFIG).read_text(encoding="utf-8"))
        config["base_model_name_or_path"] = spec.model if is_hub_id(spec.model) else None
        (folder / _CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        load_tokenizer(spec.model).save_pretrained(str(folder))
        (folder / "README.md").write_text(card_text(run, form="adapter", weights=output.name), encoding="utf-8")
    return output
