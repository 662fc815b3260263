"""What a training step holds at its peak, read off the step itself: it runs on fake tensors, and nothing is computed.

Fake tensors have shapes and lifetimes but no data, so a model of any size is traced on a laptop in seconds to a minute.
Every storage is counted from the operation that makes it until the last reference to it is gone. What a kernel
allocates inside itself is not seen, but for the one that matters (`KERNEL_TEMPORARIES`). The CPU's kernels are traced;
a GPU's fused attention keeps the same tensors.
"""

import contextlib
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AutoConfig, AutoModelForCausalLM

from tunesmith.errors import ModelError
from tunesmith.models.adapters import attach
from tunesmith.planning.memory import Method, Workload
from tunesmith.planning.plan import Plan
from tunesmith.planning.shapes import read_config
from tunesmith.spec import AdapterSpec
from tunesmith.training.token_loss import CHUNK_LOGITS, head_losses

KERNEL_TEMPORARIES = (torch.ops.aten.logsumexp.default,)
"""Kernels that hold a copy of their input while they run."""

STEPS = 2
MICRO_BATCHES = 2
"""From the second step on the optimizer has its state, from the second micro-batch on the gradients are there."""


TRACED: tuple[Method, ...] = ("lora", "full")
"""Methods whose step can be traced; a 4-bit base needs its own kernels' data."""


def with_traced_peaks(plan: Plan) -> Plan:
    """`plan` with the traced peak of each method in `TRACED`, at the plan's own micro-batch. Raises ModelError."""
    assert plan.work is not None  # noqa: S101  # every plan made by this version has it
    config, work = read_config(plan.model.name), plan.work
    methods = tuple(
        msgspec.structs.replace(method, traced_bytes=trace_peak(config, _adapter(method.method, work), work))
        if method.method in TRACED
        else method
        for method in plan.methods
    )
    return msgspec.structs.replace(plan, methods=methods)


def trace_peak(config: dict[str, Any], adapter: AdapterSpec, work: Workload) -> int:
    """Peak bytes of one optimizer step of supervised fine-tuning on micro-batches of `work`, weights included.

    `config` is the model's config.json. Raises ModelError when transformers cannot build or train it so.
    """
    bf16 = work.precision == "bf16"
    # As the engine does: adapters on a base in the run's precision, all parameters in fp32 under autocast.
    dtype = torch.bfloat16 if bf16 and adapter.kind != "full" else torch.float32
    architectures: Any = AutoModelForCausalLM  # transformers leaves from_config untyped
    try:
        with torch.device("meta"):
            base = architectures.from_config(AutoConfig.for_model(**config), dtype=dtype)
        model = attach(base, adapter).train()
        if work.checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        with FakeTensorMode(allow_non_fake_inputs=True), _Tracker() as tracker, _no_packed_rows():
            _fill_with_fakes(model)
            return _run(model, work, tracker, bf16=bf16)
    except (RuntimeError, NotImplementedError, ValueError, KeyError, TypeError, AttributeError) as error:
        cause = (str(error).splitlines() or [type(error).__name__])[0]
        raise ModelError(
            f"model_type `{config.get('model_type')}`: cannot trace a step ({cause}); leave --exact out"
        ) from error


def _adapter(method: Method, work: Workload) -> AdapterSpec:
    return AdapterSpec(kind="full") if method == "full" else AdapterSpec(kind="lora", r=work.rank)


def _run(model: nn.Module, work: Workload, tracker: "_Tracker", *, bf16: bool) -> int:
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(learning, lr=1e-4, fused=True)
    supervised = max(1, round(work.tokens * work.supervised_share))
    input_ids = torch.zeros(work.rows, work.length, dtype=torch.long)  # (rows, tokens)
    positions = torch.zeros(supervised, dtype=torch.long)  # (supervised,)
    for _ in range(STEPS):
        tracker.start_over()
        for _ in range(MICRO_BATCHES):
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                loss = _token_losses(model, input_ids, positions).sum() / supervised
            loss.backward()  # type: ignore[no-untyped-call]
            del loss
        torch.nn.utils.clip_grad_norm_(learning, 1.0)
        optimizer.step()
        optimizer.zero_grad()
    return tracker.peak


def _token_losses(model: Any, input_ids: Tensor, positions: Tensor) -> Tensor:
    """As `TokenLoss`, which cannot be made here: it looks at the numbers that the model's head gives."""
    captured: list[Tensor] = []

    def select(_head: nn.Module, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        captured.append(arguments[0].flatten(0, 1).index_select(0, positions))  # (supervised, hidden)
        return (arguments[0][:, :0], *arguments[1:])

    hook = model.get_output_embeddings().register_forward_pre_hook(select)
    try:
        model(input_ids=input_ids, use_cache=False)
    finally:
        hook.remove()
    return head_losses(model.get_output_embeddings(), captured[0], positions, chunk_logits=CHUNK_LOGITS)


class _Tracker(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch leaves __init_subclass__ untyped
    """Bytes of all storages alive, and their peak."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak = 0
        self._live = 0
        self._sizes: dict[int, int] = {}

    def start_over(self) -> None:
        """Forget the peak so far."""
        self.peak = self._live

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.peak = max(self.peak, self._live)
        result = function(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._hold(leaf.untyped_storage())
        inside = args[0].untyped_storage().nbytes() if function in KERNEL_TEMPORARIES else 0
        # Autograd adds gradients in place where nobody else holds them, but never under a mode such as this one: such
        # a sum counts only from the next operation on, when the gradient that it replaces is gone.
        if function is not torch.ops.aten.add.Tensor or torch.is_grad_enabled():
            self.peak = max(self.peak, self._live + inside)
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
        return made[id(tensor)]

    for module in model.modules():
        holders: tuple[dict[str, Any], ...] = (module._parameters, module._buffers)
        for held in holders:
            for name, tensor in held.items():
                if tensor is not None:
                    held[name] = fake(tensor)


@contextlib.contextmanager
def _no_packed_rows() -> Iterator[None]:
    """transformers looks for packed rows in the positions' values, which fakes do not have; ours are never packed.

    Without an answer it would build an explicit mask, and attention would then be another kernel than the engine's.
    """
    from transformers import masking_utils

    look: Callable[..., Any] = masking_utils.find_packed_sequence_indices
    masking_utils.find_packed_sequence_indices = lambda position_ids: None
    try:
        yield
    finally:
        masking_utils.find_packed_sequence_indices = look
