"""Merge the adapter into its base, so that serving needs neither PEFT nor the adapter's extra matrix products.

The merge is done in fp32 and rounded once to the base's own dtype. What lies on disk is read back and must give the
logits of base + adapter on real rows before the folder gets its name. The cost: 4 bytes of memory per parameter,
whatever the dtype, and one more load.
"""

import re
from pathlib import Path
from typing import TYPE_CHECKING

from tunesmith import storage
from tunesmith.errors import RunError, SpecError
from tunesmith.exporting.card import card_text
from tunesmith.models.load import load_model, load_tokenizer, load_tuned, resolve_model, with_adapter
from tunesmith.models.quiet import quiet
from tunesmith.run_folder import RunFolder

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from tunesmith.models.load import Model

_SHARD_SIZE = re.compile(r"[1-9]\d*(KB|MB|GB)")

CHECK_ROWS = 4
CHECK_TOKENS = 128
"""Tokens of each row that are compared; all their logits are held, 300 MiB for a vocabulary of 150k."""

TOLERANCE = {"float32": 2.0**-14, "float16": 2.0**-8, "bfloat16": 2.0**-5}
"""Largest allowed difference of a logit, as a share of the largest logit, by the dtype that is written.

For bf16 and fp16 that is 4 times the dtype's spacing, of which rounding moves each weight by at most half; fp32 leaves
room for the order of additions in a deep model.
"""


MAX_SHARD_SIZE = "5GB"
"""Of one safetensors file, the ecosystem's usual: a broken download costs no more than that."""


def merge(run: RunFolder, output: Path | None = None, *, max_shard_size: str = MAX_SHARD_SIZE) -> Path:
    """Write the tuned model as an ordinary Hugging Face folder: safetensors, tokenizer, chat template, configs.

    Goes to `output`, or to the run's `merged/`; weights have the base's dtype. A fully fine-tuned model is only
    converted and checked. Files are cut at `max_shard_size`. Raises SpecError when the output holds something already
    or the adapter is none that can be merged, and RunError, leaving nothing behind, when the written model does not
    give the tuned model's logits within `TOLERANCE`.
    """
    import torch

    output = run.merged if output is None else output
    must_be_free(output)
    if not _SHARD_SIZE.fullmatch(max_shard_size):
        raise SpecError(f"--max-shard-size {max_shard_size}: write it as a number and KB, MB or GB, for example 5GB")
    spec = run.load_spec()
    rows = str(run.holdout) if run.holdout.is_file() else spec.data.eval or spec.data.train
    tuned = load_tuned(run, dtype=torch.float32, dequantize=True)
    with storage.atomic_folder(output) as folder:
        _write(tuned, spec.model, folder, rows=rows, source=run.root, max_shard_size=max_shard_size)
        (folder / "README.md").write_text(card_text(run, form="merged", weights=output.name), encoding="utf-8")
    return output


def merge_adapter(base: str, adapter: Path, output: Path, *, rows: str) -> None:
    """Write the model `base` with the adapter in the folder `adapter` merged into it, to train on from there.

    Checked as `merge` checks, on rows of the file `rows`. Raises ModelError, and RunError as `merge` does.
    """
    import torch

    tuned = with_adapter(load_model(base, dtype=torch.float32), adapter)
    with storage.atomic_folder(output) as folder:
        _write(tuned, base, folder, rows=rows, source=adapter, max_shard_size=MAX_SHARD_SIZE)


def must_be_free(output: Path) -> None:
    """Raise SpecError when `output` is a file or a folder that holds something."""
    if output.is_file() or (output.is_dir() and any(output.iterdir())):
        raise SpecError(f"{output}: already holds something; remove it, or choose another folder with --output")


def logit_difference(expected: "list[torch.Tensor]", found: "list[torch.Tensor]") -> float:
    """The largest difference between two models' logits on the same rows, as a share of the largest expected one."""
    largest = max(float(logits.abs().max()) for logits in expected)
    return max(float((one - other).abs().max()) for one, other in zip(expected, found, strict=True)) / largest


def _write(tuned: "Model", base: str, folder: Path, *, rows: str, source: Path, max_shard_size: str) -> None:
    """Save `tuned` without its adapter, and its tokenizer, in `folder`, and check what was saved."""
    import torch

    tokenizer = load_tokenizer(base)
    inputs = _rows_to_check(rows, tokenizer)
    expected = [_logits(tuned, row) for row in inputs]
    merged = _without_adapter(tuned)
    merged.to(dtype=_base_dtype(base))  # type: ignore[call-arg]  # transformers wraps the method untyped
    with quiet():
        merged.save_pretrained(folder, max_shard_size=max_shard_size)
    tokenizer.save_pretrained(folder)
    dtype = str(merged.dtype).removeprefix("torch.")
    del tuned, merged
    written = load_model(str(folder), dtype=torch.float32)
    _check(source, expected, [_logits(written, row) for row in inputs], dtype)


def _check(source: Path, expected: "list[torch.Tensor]", found: "list[torch.Tensor]", dtype: str) -> None:
    difference, allowed = logit_difference(expected, found), TOLERANCE[dtype]
    if not difference <= allowed:  # also true for NaN
        raise RunError(
            f"{source}: the merged {dtype} model's logits differ from base + adapter by {difference:.2g} of the "
            f"largest (allowed: {allowed:.2g}); nothing was written. Adapters on tied embeddings cannot be merged: "
            "leave embed_tokens and lm_head out of adapter.targets, or serve the adapter unmerged."
        )


def _rows_to_check(path: str, tokenizer: "PreTrainedTokenizerBase") -> "list[torch.Tensor]":
    """Token ids of the first rows of the file `path`; (1, tokens) each."""
    import itertools

    import torch

    from tunesmith.dataset.conversation import Conversation
    from tunesmith.dataset.read import read
    from tunesmith.dataset.render import Renderer

    renderer = Renderer(tokenizer)
    rows = itertools.islice((row for row in read(path) if isinstance(row, Conversation)), CHECK_ROWS)
    return [torch.from_numpy(renderer.render(row).tokens[:CHECK_TOKENS].astype("int64"))[None] for row in rows]


def _logits(model: "Model", input_ids: "torch.Tensor") -> "torch.Tensor":
    import torch

    with torch.inference_mode():
        logits: torch.Tensor = model(input_ids=input_ids, use_cache=False).logits
    return logits


def _without_adapter(tuned: "Model") -> "PreTrainedModel":
    """The model with its adapter merged into its weights (in place)."""
    from peft import PeftModel
    from peft.config import PromptLearningConfig

    if not isinstance(tuned, PeftModel):
        return tuned
    if isinstance(tuned.active_peft_config, PromptLearningConfig):
        raise SpecError(
            "a prefix or prompt adapter has no weights to merge: it is virtual tokens before the input; "
            "export it with --to adapter"
        )
    merged: PreTrainedModel = tuned.merge_and_unload(safe_merge=True)
    return merged


def _base_dtype(ref: str) -> "torch.dtype":
    import torch
    from transformers import AutoConfig

    dtype = AutoConfig.from_pretrained(resolve_model(ref), trust_remote_code=False).dtype
    return dtype if isinstance(dtype, torch.dtype) else torch.float32
