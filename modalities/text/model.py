"""A text base in memory: the model, its tokenizer, and what training and serving must agree on."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, logging

from moatelier.errors import DataError, ModelUnavailable
from modalities import catalogue
from modalities.machine import DTYPES, Precision, choose_precision, set_threads
from modalities.text.config import TextConfig, read_config
from modalities.text.template import encode_row, template_digest


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
    catalogue.need_kind(base_id, "text")
    folder, digest = catalogue.folder(base_id), catalogue.base_digest(base_id)
    set_threads()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    chosen = choose_precision(precision, device)
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
