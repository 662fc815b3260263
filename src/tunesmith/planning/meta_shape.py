"""The shape of any architecture transformers knows, counted on a model built without weights (torch's meta device).

Exact for parameters and linear layers; the widths that activations follow from are read from the config's usual
names, so for an unusual architecture the activation part of a memory estimate is the less certain one.
"""

from typing import Any

from tunesmith.errors import ModelError
from tunesmith.planning.shapes import ModelShape


def shape_by_building(config: dict[str, Any], name: str) -> ModelShape:
    """Build the config's causal language model on the meta device and count it. Raises ModelError."""
    import torch
    from torch import nn
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.pytorch_utils import Conv1D

    try:
        settings = AutoConfig.for_model(**config)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(settings)  # type: ignore[no-untyped-call]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        cause = str(error).splitlines()[0]
        raise ModelError(f"model {name}: cannot plan for model_type `{config['model_type']}`: {cause}") from error

    head = model.get_output_embeddings()
    linear = [module.weight.shape for module in model.modules() if isinstance(module, nn.Linear) and module is not head]
    linear += [module.weight.shape[::-1] for module in model.modules() if isinstance(module, Conv1D)]
    text = settings.get_text_config()
    heads = text.num_attention_heads
    head_width = getattr(text, "head_dim", None) or text.hidden_size // heads
    parameters = sum(parameter.numel() for parameter in model.parameters())
    used = getattr(text, "num_experts_per_tok", None) or 1
    return ModelShape(
        name=name,
        family=config["model_type"],
        parameters=parameters,
        active_parameters=parameters - _idle_parameters(model, text, used),
        layers=text.num_hidden_layers,
        hidden=text.hidden_size,
        heads=heads,
        query_width=heads * head_width,
        kv_width=(getattr(text, "num_key_value_heads", None) or heads) * head_width,
        ffn_width=(getattr(text, "intermediate_size", None) or 4 * text.hidden_size) * used,
        vocabulary=text.vocab_size,
        context=getattr(text, "max_position_embeddings", None),
        linear_layers=len(linear),
        linear_inputs=sum(inputs for _, inputs in linear),
        linear_outputs=sum(outputs for outputs, _ in linear),
        linear_weights=sum(outputs * inputs for outputs, inputs in linear),
        largest_matrix=max(outputs * inputs for outputs, inputs in linear),
        norm_width=2 * text.hidden_size,
        fused=False,
        eager=False,
        tied=head.weight is model.get_input_embeddings().weight,
    )


def _idle_parameters(model: Any, text: Any, used: int) -> int:
    """Parameters of the experts that a token does not pass through; transformers stacks experts in 3-d weights."""
    experts = getattr(text, "num_local_experts", None) or getattr(text, "num_experts", None)
    if not experts:
        return 0
    stacked = sum(parameter.numel() for parameter in model.parameters() if parameter.dim() == 3)
    return int(stacked * (experts - used) // experts)
