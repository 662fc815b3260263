"""What transformers' generation is called with, soft tokens included.

A soft prompt is given to it as embeddings, and a prefix as a KV cache that is filled already, which is what they are;
PEFT's own way there rewrites the arguments of each step, and misses those that transformers renames.
"""

import inspect
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from transformers import GenerationConfig

    from tunesmith.models.load import Model


def continue_tokens(
    model: "Model", input_ids: Tensor, mask: Tensor, settings: "GenerationConfig", **options: Any
) -> Tensor:
    """What `model` says after `input_ids` (rows, tokens), of which it reads those in `mask`: (rows, new tokens).

    A prompt or prefix adapter's tokens stand before them, unless the adapter is off. `options` are those of
    transformers' `generate`.
    """
    from peft import PeftModel

    called: Any = model  # PEFT's attribute look-up hides the method
    given: dict[str, Any] = {"input_ids": input_ids}
    if isinstance(model, PeftModel) and model.active_peft_config.is_prompt_learning:
        called = model.get_base_model()
        if not model._adapters_disabled:
            rows, soft = len(input_ids), model.active_peft_config.num_virtual_tokens
            mask = torch.cat((mask.new_ones(rows, soft), mask), dim=1)
            start: Any = model.get_prompt(rows)
            if isinstance(start, Tensor):
                embeddings = called.get_input_embeddings()(input_ids)
                given = {"inputs_embeds": torch.cat((start.to(embeddings.dtype), embeddings), dim=1)}
            else:  # tokens whose keys and values are in the cache are not read
                given = {"input_ids": torch.cat((input_ids.new_zeros(rows, soft), input_ids), dim=1)}
                given[cache_argument(called)] = start
    output: Tensor = called.generate(**given, attention_mask=mask, generation_config=settings, **options)
    # Of embeddings, generation returns only what it said itself.
    return output[:, given["input_ids"].shape[1] :] if "input_ids" in given else output


def cache_argument(model: Any) -> str:
    """transformers renamed the argument in 5.2x; the old name still works there and warns at each step."""
    return "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"
