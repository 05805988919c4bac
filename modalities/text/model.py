"""A text base in memory: the model, its tokenizer, and what training and serving must agree on."""

import json
import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from filelock import FileLock
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, logging

from moatelier.errors import DataError, ModelUnavailable
from moatelier.job import write_atomically
from moatelier.settings import settings
from modalities import catalogue
from modalities.text.config import TextConfig, read_config
from modalities.text.template import encode_row, template_digest

Precision = Literal["bf16", "fp32"]
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


@dataclass(frozen=True)
class TextBase:
    """A loaded base. Its weights are frozen and in evaluation mode.

    Attributes:
        model: A Hugging Face causal language model.
        tokenizer: Its tokenizer; the padding token is never a stop token.
        entry_id: The catalogue id.
        digest: Names the model's bytes, see `catalogue.base_digest`.
        template_digest: Names what turns messages into text.
        stop_ids: Generation stops at any of these; ascending.
        config: The model's shape.
        precision: What the weights are in.
    """

    model: Any
    tokenizer: Any
    entry_id: str
    digest: str
    template_digest: str
    stop_ids: tuple[int, ...]
    config: TextConfig
    precision: Precision

    @property
    def first_layer_default(self) -> int:
        """The first layer that an adapter changes by default."""
        return self.config.first_layer_default

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return torch.device(self.model.device)


def load_base(base_id: str, precision: Literal["auto", "bf16", "fp32"] = "auto") -> TextBase:
    """Load a pulled text model on the GPU if there is one, else on the CPU. Never touches the network.

    Args:
        base_id: A catalogue id.
        precision: `auto` is bf16 on a GPU and what `probe_precision` finds on a CPU.

    Raises:
        NotFound: Unknown id.
        ModelUnavailable: Not pulled, not a text model, or its files do not load.
        IntegrityError: Its files are not those that were pulled.
    """
    entry = catalogue.get(base_id)
    if entry.kind != "text":
        raise ModelUnavailable(
            f"{base_id!r} is a model for {entry.kind}, not a text model.",
            where=base_id,
            remedy="Name a text model; see `moatelier models list`.",
        )
    folder, digest = catalogue.folder(base_id), catalogue.base_digest(base_id)
    set_threads()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    chosen: Precision = precision if precision != "auto" else "bf16" if device == "cuda" else probe_precision()
    tokenizer = load_tokenizer(folder)
    model = _quietly(
        lambda: AutoModelForCausalLM.from_pretrained(
            folder, dtype=DTYPES[chosen], local_files_only=True, use_safetensors=True, trust_remote_code=False
        ),
        folder,
    )
    model.eval().requires_grad_(False).to(device)
    stop_ids = find_stop_ids(folder, tokenizer)
    return TextBase(
        model, tokenizer, base_id, digest, template_digest(tokenizer), stop_ids, read_config(folder), chosen
    )


def load_tokenizer(folder: Path) -> Any:
    """Load a folder's tokenizer, with a padding token that is no stop token.

    Raises:
        ModelUnavailable: There is none, it has no chat template, or no token can serve as padding.
    """
    tokenizer = _quietly(lambda: AutoTokenizer.from_pretrained(folder, local_files_only=True), folder)
    if not isinstance(tokenizer.chat_template, str):
        raise ModelUnavailable(
            "The model has no chat template.",
            where=str(folder),
            remedy="Use an instruct model; its folder has a chat_template.jinja.",
        )
    stops = find_stop_ids(folder, tokenizer)
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id in stops:
        tokenizer.pad_token = _padding(tokenizer, stops, folder)
    return tokenizer


def find_stop_ids(folder: Path, tokenizer: Any) -> tuple[int, ...]:
    """The ids that end a turn: the tokenizer's and the generation config's end tokens, ascending.

    Raises:
        ModelUnavailable: None of them ends an assistant's turn in the chat template.
    """
    found = {tokenizer.eos_token_id} - {None}
    if (folder / "generation_config.json").exists():
        ends = GenerationConfig.from_pretrained(folder, local_files_only=True).eos_token_id
        found |= set(ends if isinstance(ends, list) else [ends]) - {None}
    stops = tuple(sorted(int(stop) for stop in found))
    turn = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    try:
        encode_row(tokenizer, turn, stops)
    except DataError as error:
        raise ModelUnavailable(
            f"The model's chat template does not fit its stop tokens: {error.what}", where=str(folder)
        ) from error
    return stops


def set_threads() -> int:
    """Let torch use the threads of `settings().threads`, or as many as the process may use cores; returns them."""
    threads = settings().threads or _cores()
    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)
    return threads


def probe_precision() -> Precision:
    """Which precision this CPU is faster at, on a block's largest matrix product. Measured once a CPU model.

    Without AMX or AVX512-BF16, bfloat16 is emulated and can be several times slower than float32.
    """
    file, cpu = settings().home / "probe.json", _cpu_name()
    file.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{file}.lock"):
        known = _read_probe(file)
        if cpu not in known:
            seconds = {name: _time_product(dtype) for name, dtype in DTYPES.items()}
            known[cpu] = {"seconds": seconds, "precision": min(seconds, key=lambda name: seconds[name])}
            write_atomically(file, json.dumps(known, indent=1).encode())
    return "bf16" if known[cpu]["precision"] == "bf16" else "fp32"


def _time_product(dtype: torch.dtype, tokens: int = 256, hidden: int = 576, wide: int = 1536) -> float:
    """Best of three times, in seconds, of a feed-forward layer's product forward and back."""
    generator = torch.Generator().manual_seed(0)
    left = torch.randn(tokens, hidden, generator=generator).to(dtype)
    right = torch.randn(hidden, wide, generator=generator).to(dtype)
    times = []
    for _ in range(4):
        start = time.perf_counter()
        for _ in range(4):
            (left @ right) @ right.T
        times.append(time.perf_counter() - start)
    return min(times[1:])


def _read_probe(file: Path) -> dict[str, Any]:
    try:
        known = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    told = dict(line.partition(":")[::2] for line in lines if line.startswith(("model name", "flags", "Features")))
    fields = {key.strip(): value.strip() for key, value in told.items()}
    flags = set((fields.get("flags") or fields.get("Features") or "").split())
    fast = sorted(flags & {"amx_bf16", "avx512_bf16", "bf16"})
    return " ".join([platform.machine(), fields.get("model name", platform.processor()), *fast]).strip()


def _cores() -> int:
    """Cores this process may use: its affinity, and the quota of its cgroup (v2)."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="utf-8").split()
    except (OSError, ValueError):
        return cores
    return cores if quota == "max" else max(1, min(cores, int(quota) // int(period)))


def _padding(tokenizer: Any, stops: tuple[int, ...], folder: Path) -> str:
    candidates = [tokenizer.unk_token_id, *sorted(i for i, t in tokenizer.added_tokens_decoder.items() if t.special)]
    for token in candidates:
        if token is not None and token not in stops:
            return str(tokenizer.convert_ids_to_tokens(token))
    raise ModelUnavailable("The tokenizer has no token that can serve as padding.", where=str(folder))


def _quietly(load: Callable[[], Any], folder: Path) -> Any:
    """Load without progress bars, and with the library's errors translated."""
    logging.disable_progress_bar()
    try:
        return load()
    except Exception as error:  # transformers and safetensors raise many kinds
        raise ModelUnavailable(
            f"The model's files do not load: {type(error).__name__}: {error}",
            where=str(folder),
            remedy="Delete the folder and pull the model again.",
        ) from error
