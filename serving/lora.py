"""Adapters in PEFT's format on one base: several loaded at once, at most one active in a step."""

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file

from moatelier.contracts import AdapterManifest
from moatelier.errors import Conflict, IntegrityError, NotFound

WEIGHTS = "adapter_model.safetensors"


@dataclass(eq=False)
class Loaded:
    """An adapter that is in memory. `key` is new for every load, so a name that is used again meets nothing stale."""

    name: str
    key: str
    path: Path
    manifest: AdapterManifest
    digest: str
    users: int = 0
    """Answers in the making."""
    retired: bool = False
    """Unloaded by name; its weights go when the last user is done."""


class Adapters:
    """The adapters of one base model, by name.

    Whoever runs the model holds `lock` from `activate` to the end of the step; the methods here take it themselves.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        self.lock = threading.RLock()
        self._model = model
        self._peft: Any = None
        self._loaded: dict[str, Loaded] = {}
        self._loads = 0
        self._active: str | None = None

    def all(self) -> tuple[Loaded, ...]:
        """What is loaded, in the order of loading."""
        return tuple(self._loaded.values())

    def get(self, name: str) -> Loaded:
        """The adapter of this name.

        Raises:
            NotFound: No adapter of this name is loaded.
        """
        if name not in self._loaded:
            raise NotFound(f"No adapter `{name}` is loaded.", where="model", remedy="Load it first.")
        return self._loaded[name]

    def add(self, name: str, path: Path, manifest: AdapterManifest) -> Loaded:
        """Put a verified bundle's weights beside the base's; a second call with the same bundle changes nothing.

        Raises:
            Conflict: Another bundle has this name.
            IntegrityError: Weights are missing, unexpected or of another shape than the base asks for.
        """
        digest = manifest.digest
        with self.lock:
            if known := self._loaded.get(name):
                if known.digest == digest:
                    return known
                raise Conflict(f"Another bundle is loaded as `{name}`.", where="lora_name", remedy="Unload it first.")
            self._loads += 1
            loaded = Loaded(name, f"adapter{self._loads}", path, manifest, digest)
            self._inject(loaded)
            self._loaded[name] = loaded
            return loaded

    def remove(self, name: str) -> None:
        """Forget an adapter's name now, and its weights when no answer needs them any more."""
        with self.lock:
            loaded = self.get(name)
            del self._loaded[name]
            loaded.retired = True
            self._drop_unused(loaded)

    @contextmanager
    def use(self, name: str | None) -> Iterator[Loaded | None]:
        """Keep an adapter's weights in memory for as long as an answer is in the making; None is the base."""
        if name is None:
            yield None
            return
        with self.lock:
            loaded = self.get(name)
            loaded.users += 1
        try:
            yield loaded
        finally:
            with self.lock:
                loaded.users -= 1
                self._drop_unused(loaded)

    def activate(self, loaded: Loaded | None) -> None:
        """Make the next step run with this adapter, or with none: then the base computes what it did before any."""
        key = loaded.key if loaded else None
        if key == self._active or self._peft is None:
            return
        self._peft.base_model.set_adapter([key] if key else [], inference_mode=True)
        self._active = key

    def _inject(self, loaded: Loaded) -> None:
        weights = load_file(loaded.path / WEIGHTS)
        try:
            # On the meta device: nothing is drawn at random, and what the file lacks cannot pass for a weight.
            self._inject_empty(loaded.key, _config(loaded.path))
            self._check(loaded, weights)
            device = next(self._model.parameters()).device
            weights = {key: tensor.to(device) for key, tensor in weights.items()}
            set_peft_model_state_dict(self._peft, weights, loaded.key, low_cpu_mem_usage=True)
        except (ValueError, TypeError, KeyError, RuntimeError) as error:
            self._delete(loaded)
            raise IntegrityError(f"The adapter does not fit the base: {error}", where=str(loaded.path)) from error
        except IntegrityError:
            self._delete(loaded)
            raise
        self._peft.eval()
        self.activate(None)

    def _inject_empty(self, key: str, config: PeftConfig) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # between PEFT and transformers
            if self._peft is None:
                self._peft = PeftModel(self._model, config, key, low_cpu_mem_usage=True)
            else:
                self._peft.add_adapter(key, config, low_cpu_mem_usage=True)
        self._active = key  # whatever PEFT has switched on; `activate` decides before the next step

    def _check(self, loaded: Loaded, weights: dict[str, torch.Tensor]) -> None:
        """A key that PEFT would pass over in silence is an adapter that silently does nothing (peft#2115)."""
        state = get_peft_model_state_dict(self._peft, adapter_name=loaded.key, save_embedding_layers=False)
        wanted = {key: tuple(tensor.shape) for key, tensor in state.items()}
        found = {key: tuple(tensor.shape) for key, tensor in weights.items()}
        for problem, keys in (
            ("lacks", wanted.keys() - found.keys()),
            ("has unexpected", found.keys() - wanted.keys()),
            ("has misshapen", {key for key in wanted.keys() & found.keys() if wanted[key] != found[key]}),
        ):
            if keys:
                what = f"The adapter {problem} weights: {len(keys)}, such as {min(keys)}."
                raise IntegrityError(what, where=str(loaded.path / WEIGHTS))

    def _drop_unused(self, loaded: Loaded) -> None:
        if loaded.retired and loaded.users == 0:
            self._delete(loaded)

    def _delete(self, loaded: Loaded) -> None:
        if self._peft is not None and loaded.key in self._peft.peft_config:
            self._peft.base_model.set_adapter([], inference_mode=True)
            self._active = None
            self._peft.delete_adapter(loaded.key)


def _config(path: Path) -> PeftConfig:
    """The bundle's LoRA configuration, read from its folder and nowhere else."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a key of a newer PEFT is worth a refusal below, or nothing
        config = PeftConfig.from_pretrained(str(path), local_files_only=True)
    if not isinstance(config, LoraConfig) or config.modules_to_save or config.bias != "none":
        raise IntegrityError("The adapter is not plain LoRA, the only method this engine runs.", where=str(path))
    config.inference_mode = True
    return config
