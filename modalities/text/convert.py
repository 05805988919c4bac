"""How a GGUF chat model becomes a folder that loads anywhere: safetensors, tokenizer.json, chat template."""

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import torch
from gguf import GGUFReader
from tokenizers import pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

from moatelier.errors import IntegrityError, ModelUnavailable, ResourceExhausted
from modalities.text.model import load_tokenizer

_VOLATILE = ("_name_or_path", "_model_name_or_path", "transformers_version", "is_local", "local_files_only")
"""Fields that say who converted and not what: another release must give the same model the same digest."""
_SHAPE = frozenset(
    "model_type vocab_size max_position_embeddings hidden_size intermediate_size num_hidden_layers num_attention_heads "
    "num_key_value_heads head_dim tie_word_embeddings dtype bos_token_id eos_token_id".split()
)
"""Fields that are always written down."""


def gguf_text(source: Path, to: Path, context: int | None) -> None:
    """Convert the one GGUF file of a Llama-like chat model.

    Its quantised blocks are scale x integer + offset, which neither bfloat16 nor float16 holds exactly, so that the
    weights are kept in float32.

    Args:
        source: Folder with the `.gguf` file.
        to: Empty folder for `config.json`, `model.safetensors`, `tokenizer.json`, `chat_template.jinja`, ...
        context: Longest input in tokens, recorded with the tokenizer.

    Raises:
        IntegrityError: The file is no GGUF file of a supported model.
        ModelUnavailable: There is none, or its chat template does not fit its stop token.
        ResourceExhausted: The disk is full.
    """
    file = next(source.glob("*.gguf"), None)
    if file is None:
        raise ModelUnavailable("There is no .gguf file.", where=str(source))
    try:
        model, tokenizer = read_gguf(file)
    except Exception as error:  # transformers and gguf raise many kinds
        raise IntegrityError(
            f"The GGUF file cannot be converted: {type(error).__name__}: {error}", where=str(file)
        ) from error
    if context:
        tokenizer.model_max_length = context
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            model.save_pretrained(to)
            tokenizer.save_pretrained(to)
    except Exception as error:  # safetensors hides the operating system's error in one of its own
        raise ResourceExhausted(
            f"The converted model could not be written: {error}",
            where=str(to),
            remedy="Free some disk space or let MOATELIER_CACHE name another folder.",
        ) from error
    checked = load_tokenizer(to)  # proves template and stop token, and chooses the padding
    checked.save_pretrained(to)
    _settle_configs(to, _told(model.config), int(checked.pad_token_id))


def read_gguf(file: Path) -> tuple[Any, Any]:
    """Model and tokenizer of a GGUF file by transformers, in float32."""
    where = {"gguf_file": file.name, "local_files_only": True}
    with contextlib.redirect_stderr(io.StringIO()):  # the reader draws a progress bar that cannot be turned off
        model = AutoModelForCausalLM.from_pretrained(
            file.parent, quantization_config=GgufConfig(dequantize=True), dtype=torch.float32, **where
        )
        tokenizer = AutoTokenizer.from_pretrained(file.parent, **where)
    field = GGUFReader(file).get_field("tokenizer.ggml.pre")
    if field is not None and field.contents() == "smollm":
        _split_digits(tokenizer)
    return model, tokenizer


def _split_digits(tokenizer: Any) -> None:
    # SmolLM was trained with each digit split off before byte-level BPE; transformers' GGUF reader forgets that, which
    # shows where blanks stand before a digit ("a  42", "\n\n1").
    rust = tokenizer.backend_tokenizer
    rust.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), rust.pre_tokenizer])


def _told(config: Any) -> dict[str, Any]:
    """A config's shape and what differs from its class's defaults, which other releases may add to."""
    usual = type(config)().to_dict()
    told = config.to_diff_dict()
    return {name: value for name, value in told.items() if name in _SHAPE or usual.get(name) != value}


def _settle_configs(folder: Path, config: dict[str, Any], pad: int) -> None:
    """Keep of the JSON files what makes the model what it is, and nothing of who wrote them."""
    _write(folder / "config.json", config | {"pad_token_id": pad})
    ends = {name: config[name] for name in ("bos_token_id", "eos_token_id") if name in config}
    _write(folder / "generation_config.json", ends | {"pad_token_id": pad})
    told = folder / "tokenizer_config.json"
    _write(told, json.loads(told.read_text(encoding="utf-8")))


def _write(file: Path, content: dict[str, Any]) -> None:
    kept = {key: value for key, value in content.items() if key not in _VOLATILE}
    file.write_text(json.dumps(kept, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
