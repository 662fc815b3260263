"""What a training step holds at its peak, read off the step itself: it runs on fake tensors, and nothing is computed.

Fake tensors have shapes and lifetimes but no data, so a model of any size is traced on a laptop in seconds to a minute.
Every storage is counted from the operation that makes it until the last reference to it is gone. What a kernel
allocates inside itself is not seen, but for those that matter (`_bytes_inside`). The CPU's kernels are traced;
a GPU's fused attention keeps the same tensors.
"""

import contextlib
import copy
import math
import weakref
from collections.abc import Callable, Iterator, Sequence
from types import ModuleType
from typing import Any

import msgspec
import torch
import torch.nn.functional as F  # noqa: N812  # the field's name for it
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tunesmith.errors import ModelError
from tunesmith.evaluation import generate
from tunesmith.models.quiet import quiet
from tunesmith.planning.plan import Plan
from tunesmith.planning.shapes import read_config
from tunesmith.planning.workload import Method, Workload
from tunesmith.training import rollouts, token_loss
from tunesmith.training.sample_step import build_learner, sample_step

ANSWERED = (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.allclose.default, torch.ops.aten.equal.default)
"""Questions about a tensor's numbers, which fakes do not have."""

NO_BACKWARD = -1
"""The number of the backward pass under way where there is none."""


def with_traced_peaks(plan: Plan) -> Plan:
    """`plan` with the traced peak of each method, at the plan's own micro-batch. Raises ModelError.

    What several GPUs share among them is not traced.
    """
    assert plan.work is not None  # noqa: S101  # every plan made by this version has it
    config, work = read_config(plan.model.name), plan.work
    methods = tuple(
        method
        if method.sharded or (method.method == "full" and plan.gpus > 1)
        else msgspec.structs.replace(method, traced_bytes=trace_peak(config, method.method, work))
        for method in plan.methods
    )
    return msgspec.structs.replace(plan, methods=methods)


def trace_peak(config: dict[str, Any], method: Method, work: Workload) -> int:
    """Peak bytes of one optimizer step of `method` on micro-batches of `work`, weights included.

    `config` is the model's config.json. Raises ModelError when transformers cannot build or train it so.
    """
    try:
        with torch.device("meta"), quiet():
            learner = build_learner(config, method, work)
        with (
            FakeTensorMode(allow_non_fake_inputs=True),
            _Tracker() as tracker,
            _no_packed_rows(),
            _replies_at_once(),
            _head_by_config(),
            quiet(),
        ):
            for module in learner:
                if module is not None:
                    _fill_with_fakes(module)
            sample_step(learner, method, work)()
            peak: int = tracker.peak
            return peak
    except (RuntimeError, NotImplementedError, ValueError, KeyError, TypeError, AttributeError) as error:
        cause = (str(error).splitlines() or [type(error).__name__])[0]
        raise ModelError(
            f"model_type `{config.get('model_type')}`: cannot trace a step ({cause}); leave --exact out"
        ) from error


def _bytes_inside(function: Any, args: tuple[Any, ...]) -> int:
    """What a kernel that allocates much holds while it runs."""
    if function is torch.ops.aten.logsumexp.default:  # a copy of its input
        return int(args[0].untyped_storage().nbytes())
    if str(function) == "bitsandbytes.gemm_4bit.default":  # the matrix, dequantized
        return int(math.prod(args[2]) * args[0].element_size())
    return 0


def _adds_in_place(function: Any, args: tuple[Any, ...]) -> bool:
    """Whether this is autograd's sum of two gradients, into the first of them where that is nobody else's.

    It never does so under a mode such as the tracker's, which sees a new sum instead: that one counts only from the
    next operation on, when the gradient that it replaces is gone. A view's base is another holder of the storage
    (`can_accumulate_inplace` in torch/csrc/autograd/input_buffer.cpp), as with the transposed gradient of a head.
    """
    backward = torch._C._current_graph_task_id() != NO_BACKWARD
    if function is not torch.ops.aten.add.Tensor or not backward or torch.is_grad_enabled():
        return False
    holders: int = torch._C._storage_Use_Count(args[0].untyped_storage()._cdata)
    return holders == 2  # the gradient, and the Python object asked for here


class _Tracker(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch leaves __init_subclass__ untyped
    """Bytes of all storages alive, and their peak."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak = 0
        self._live = 0
        self._sizes: dict[int, int] = {}

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.peak = max(self.peak, self._live)
        if function in ANSWERED and isinstance(args[0], FakeTensor):
            return _made_up(function, args[0].dtype)
        result = function(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._hold(leaf.untyped_storage())
        if not _adds_in_place(function, args):
            self.peak = max(self.peak, self._live + _bytes_inside(function, args))
        return result

    def _hold(self, storage: torch.UntypedStorage) -> None:
        key = id(storage)
        if key not in self._sizes:
            self._sizes[key] = storage.nbytes()
            self._live += storage.nbytes()
            weakref.finalize(storage, self._drop, key)

    def _drop(self, key: int) -> None:
        self._live -= self._sizes.pop(key)


def _fill_with_fakes(model: nn.Module) -> None:
    """Give every parameter and buffer of a model on the meta device a fake tensor on the CPU, tied ones one."""
    made: dict[int, Tensor] = {}

    def fake(tensor: Tensor) -> Tensor:
        if id(tensor) not in made:
            empty = torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu")
            is_parameter = isinstance(tensor, nn.Parameter)
            made[id(tensor)] = nn.Parameter(empty, requires_grad=tensor.requires_grad) if is_parameter else empty
            if state := getattr(tensor, "quant_state", None):  # of bitsandbytes' 4-bit weights
                made[id(tensor)].quant_state = fake_state(state)  # type: ignore[attr-defined]
        return made[id(tensor)]

    def fake_state(state: Any) -> Any:
        filled = copy.copy(state)
        for name, value in vars(state).items():
            if isinstance(value, Tensor):
                setattr(filled, name, fake(value))
        filled.state2 = fake_state(state.state2) if state.state2 else None
        return filled

    for module in model.modules():
        holders: tuple[dict[str, Any], ...] = (module._parameters, module._buffers)
        for held in holders:
            for name, tensor in held.items():
                if tensor is not None:
                    held[name] = fake(tensor)


def _made_up(question: Any, dtype: torch.dtype) -> bool | float | int:
    """The answer that lets the step go on: things are as they should be, and numbers are small."""
    if question is not torch.ops.aten._local_scalar_dense.default or dtype == torch.bool:
        return True
    return 1.0 if dtype.is_floating_point else 1


def _replies_at_once() -> contextlib.AbstractContextManager[None]:
    """Sampling asks after every token whether all have ended, which fakes cannot say.

    One pass over the prompts fills the cache of keys and values; it grows to the length of the replies at once, and one
    pass adds the last token to it.
    """

    def sampled(model: Any, _tokenizer: Any, prompts: Sequence[Any], *, max_new_tokens: int, **_: Any) -> list[Any]:
        for batch in generate.batches(prompts, max_new_tokens):
            prompt = torch.zeros(len(batch), len(prompts[0]), dtype=torch.long)  # (rows, tokens)
            with torch.inference_mode():
                cache = model(input_ids=prompt, use_cache=True, logits_to_keep=1).past_key_values
                for layer in cache.layers:
                    longer = (0, 0, 0, max_new_tokens - 1)  # (rows, heads, tokens, width)
                    layer.keys, layer.values = (F.pad(part, longer) for part in (layer.keys, layer.values))
                model(input_ids=prompt[:, :1], past_key_values=cache, use_cache=True, logits_to_keep=1)
        return [[0] * max_new_tokens] * len(prompts)

    return _replaced(rollouts, "sample", sampled)


def _head_by_config() -> contextlib.AbstractContextManager[None]:
    """What follows the head is found by comparing numbers, which fakes do not have: the config is believed instead."""

    def believed(model: Any, _head: nn.Module) -> Any:
        return list(token_loss._after_head_candidates(model.config.get_text_config()))[-1]

    return _replaced(token_loss, "_after_head", believed)


def _no_packed_rows() -> contextlib.AbstractContextManager[None]:
    """transformers looks for packed rows in the positions' values, which fakes do not have; ours are never packed.

    Without an answer it would build an explicit mask, and attention would then be another kernel than the engine's.
    """
    from transformers import masking_utils

    return _replaced(masking_utils, "find_packed_sequence_indices", lambda position_ids: None)


@contextlib.contextmanager
def _replaced(module: ModuleType, name: str, stand_in: Callable[..., Any]) -> Iterator[None]:
    """The module with `stand_in` for its function `name`, for a while."""
    function = getattr(module, name)
    setattr(module, name, stand_in)
    try:
        yield
    finally:
        setattr(module, name, function)
