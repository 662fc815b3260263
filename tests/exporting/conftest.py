"""Runs as training leaves them, made in milliseconds: a tiny random base, a random adapter, a few held-out rows."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from tunesmith import storage
from tunesmith.run_folder import RunFolder
from tunesmith.spec import dump_spec, parse_spec

WORDS = ["<|pad|>", "<|end|>", "<|user|>", "<|assistant|>", "?", "is", "it", "red", "or", "blue"]


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., RunFolder]:
    """A function that makes a finished run: `make_run(kind="lora", dtype=torch.float32, **config)`."""

    def make(
        kind: str = "lora", dtype: torch.dtype = torch.float32, targets: Any = "all-linear", **config: Any
    ) -> RunFolder:
        base = tmp_path / "base"
        _save_tokenizer(base)
        _tiny_llama(**config).to(dtype).save_pretrained(base)
        holdout = [
            {"messages": [_turn("user", f"is it {color} ?"), _turn("assistant", color)]} for color in ("red", "blue")
        ]
        run = RunFolder(tmp_path / "run")
        storage.write_text(run.holdout, "".join(json.dumps(row) + "\n" for row in holdout))
        values = {
            "model": str(base),
            "data": {"train": str(run.holdout)},
            "adapter": {"kind": kind, "targets": targets} if kind == "lora" else {"kind": kind},
            "output": str(run.root),
        }
        storage.write_text(run.spec, dump_spec(parse_spec(values)))
        torch.manual_seed(1)
        if kind == "full":
            tuned = LlamaForCausalLM.from_pretrained(base, dtype=torch.float32)
            _disturb(tuned)
            tuned.save_pretrained(run.model)
            _save_tokenizer(run.model)
        else:
            model = LlamaForCausalLM.from_pretrained(base, dtype=dtype)
            adapted = get_peft_model(model, LoraConfig(r=4, target_modules=targets, task_type="CAUSAL_LM"))
            _disturb(adapted)
            adapted.save_pretrained(run.adapter)
        return run

    return make


def _disturb(model: torch.nn.Module) -> None:
    """Move what would learn, as training does: a new LoRA is exactly zero."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn_like(parameter))


def _tiny_llama(**config: Any) -> LlamaForCausalLM:
    torch.manual_seed(0)
    shape = {
        "vocab_size": len(WORDS),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "initializer_range": 0.2,
    }
    return LlamaForCausalLM(LlamaConfig(**shape, bos_token_id=None, eos_token_id=1, pad_token_id=0, **config)).eval()


def _save_tokenizer(folder: Path) -> None:
    core = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="?"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<|end|>", pad_token="<|pad|>")
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|user|>", "<|assistant|>"]})
    tokenizer.chat_template = (
        "{% for m in messages %}<|{{ m.role }}|> {{ m.content }} <|end|> {% endfor %}"
        "{% if add_generation_prompt %}<|assistant|> {% endif %}"
    )
    tokenizer.save_pretrained(folder)


def _turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}
