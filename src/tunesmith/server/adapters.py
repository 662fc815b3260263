"""LoRA adapters beside each other over one base model, one of them switched on at a time.

Loading one costs a read of its few megabytes; switching costs next to nothing, which is why adapters share a base.
"""

from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunesmith.errors import ModelError
from tunesmith.models.quiet import quiet

if TYPE_CHECKING:
    from transformers import PreTrainedModel

MAX_ADAPTERS = 16
"""Adapters kept in memory over one base; the one used longest ago makes room."""


@dataclass(frozen=True)
class Adapter:
    """A LoRA adapter in PEFT's format; `id` is the model id that it is served as."""

    id: str
    folder: Path


class Adapters:
    """The adapters in memory over one base model, and which of them is switched on. Used on one thread only."""

    def __init__(self, model: "PreTrainedModel") -> None:
        self._model = model
        self._peft: Any = None  # PEFT's attribute look-up hides its methods' types
        self._names: OrderedDict[str, str] = OrderedDict()  # id → PEFT's name, least recently used first
        self._made = 0
        self._active: str | None = None
        self.unwanted: set[str] = set()

    def use(self, adapter: Adapter | None) -> None:
        """Switch `adapter` on (None: the bare base), loading it if need be. Raises ModelError."""
        if adapter is None:
            if self._peft is not None and self._active is not None:
                self._peft.base_model.disable_adapter_layers()
                self._active = None
            return
        if adapter.id not in self._names:
            self._load(adapter)
        self._names.move_to_end(adapter.id)
        if self._active != adapter.id:
            self._peft.base_model.enable_adapter_layers()
            self._peft.set_adapter(self._names[adapter.id])
            self._active = adapter.id

    def drop_unwanted(self, used: set[str]) -> None:
        """Free the adapters that are no longer wanted or of which there are too many, but none in `used`."""
        spare = list(self._names)[: max(0, len(self._names) - MAX_ADAPTERS)]
        for adapter_id in {*spare, *self.unwanted} - used:
            self.unwanted.discard(adapter_id)
            name = self._names.pop(adapter_id, None)
            if name is None:
                continue
            if self._active == adapter_id:
                self._peft.base_model.disable_adapter_layers()
                self._active = None
            self._peft.delete_adapter(name)

    def _load(self, adapter: Adapter) -> None:
        from peft import PeftConfig, PeftModel, PeftType
        from safetensors import SafetensorError

        self._made += 1
        name = f"adapter{self._made}"
        try:
            with quiet():
                kind = PeftConfig.from_pretrained(str(adapter.folder)).peft_type
                if kind != PeftType.LORA:
                    raise ModelError(f"model {adapter.id}: its adapter is {kind}; only LoRA adapters are served")
                if self._peft is None:
                    self._peft = PeftModel.from_pretrained(
                        self._model, str(adapter.folder), adapter_name=name, autocast_adapter_dtype=False
                    )
                else:
                    self._peft.load_adapter(str(adapter.folder), adapter_name=name, autocast_adapter_dtype=False)
        except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
            if isinstance(error, ModelError):
                raise
            raise ModelError(f"model {adapter.id}: its adapter cannot be loaded: {error}") from error
        self._model.train(False)
        self._names[adapter.id] = name
        self._active = None
