"""A merged model as one GGUF file, by the gguf package: weights, shape, tokenizer and template, as llama.cpp has them.

Names of tensors and fields are gguf's own. Matrices are in the numbers asked for, vectors in float32, as llama.cpp's
converter has them; a tied head is not written, and readers take the words' matrix for it.
"""

import json
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from gguf import MODEL_ARCH, GGMLQuantizationType, GGUFWriter, LlamaFileType, TokenType, get_tensor_name_map
from gguf.quants import quantize
from numpy.typing import NDArray
from transformers import logging
from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS

from moatelier.contracts import AdapterManifest
from moatelier.errors import InvalidRequest
from modalities.text.convert import read_gguf
from modalities.text.model import TextBase
from modalities.text.template import encode_row

MERGES = True
FILE = "model.gguf"
_ARCHITECTURES = {
    "llama": MODEL_ARCH.LLAMA,
    "mistral": MODEL_ARCH.LLAMA,
    "qwen2": MODEL_ARCH.QWEN2,
    "qwen3": MODEL_ARCH.QWEN3,
}
_NUMBERS = {
    "f32": (GGMLQuantizationType.F32, LlamaFileType.ALL_F32, 4.0),
    "f16": (GGMLQuantizationType.F16, LlamaFileType.MOSTLY_F16, 2.0),
    "q8_0": (GGMLQuantizationType.Q8_0, LlamaFileType.MOSTLY_Q8_0, 34 / 32),
}
_BLOCK = 32
_SPLITS = ("qwen2", "llama-bpe", "tekken")
"""Ways of splitting text before byte-level BPE that llama.cpp knows by these names."""


def size(base: Path, bundle: Path, numbers: str) -> int:
    """About how many bytes it takes, for a base in float32 on the disk."""
    weights = sum(file.stat().st_size for file in base.glob("*.safetensors"))
    return int(weights / 4 * _NUMBERS[numbers][2]) + sum(file.stat().st_size for file in base.glob("tokenizer*"))


def write(folder: Path, model: Any, base: TextBase, manifest: AdapterManifest, numbers: str) -> None:
    """The file.

    Raises:
        InvalidRequest: GGUF has no form for this model or its tokenizer.
    """
    config = model.config
    arch = _ARCHITECTURES.get(config.model_type)
    if arch is None:
        raise _unknown(f"models of the type {config.model_type!r}", base)
    quantisation, file_type, _ = _NUMBERS[numbers]
    writer = GGUFWriter(folder / FILE, arch=arch.name.lower(), use_temp_file=False)
    try:
        writer.add_name(f"{manifest.base} {manifest.suffix}")
        writer.add_license(manifest.licence)
        writer.add_file_type(file_type)
        _shape(writer, config, base)
        _words(writer, base, manifest, config.vocab_size)
        for name, tensor in _tensors(model, arch):
            kind = quantisation if tensor.ndim > 1 else GGMLQuantizationType.F32
            if kind is GGMLQuantizationType.Q8_0 and tensor.shape[-1] % _BLOCK:
                kind = GGMLQuantizationType.F16
            writer.add_tensor(name, quantize(tensor, kind), raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    finally:
        writer.close()


def read(folder: Path, manifest: AdapterManifest) -> tuple[Any, Any, str]:
    """By transformers' own reader of GGUF files, which brings the weights back to float32."""
    logging.disable_progress_bar()
    model, tokenizer = read_gguf(folder / FILE)
    return model, tokenizer, f"transformers {version('transformers')} (GGUF)"


def _unknown(what: str, base: TextBase) -> InvalidRequest:
    return InvalidRequest(
        f"GGUF is not written for {what}.", where=base.entry_id, remedy="Export it as `safetensors` and convert that."
    )


def _shape(writer: GGUFWriter, config: Any, base: TextBase) -> None:
    rope = dict(config.rope_parameters)
    if rope.get("rope_type", "default") != "default":
        raise _unknown(f"positions by {rope['rope_type']!r}", base)
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(head)
    writer.add_value_length(head)
    writer.add_rope_dimension_count(head)
    writer.add_rope_freq_base(rope["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)


def _words(writer: GGUFWriter, base: TextBase, manifest: AdapterManifest, size: int) -> None:
    tokenizer = base.tokenizer
    told = json.loads(tokenizer.backend_tokenizer.to_str())
    if told["model"]["type"] != "BPE" or told["model"].get("byte_fallback"):
        raise _unknown("tokenizers other than byte-level BPE", base)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(_splitting(told["pre_tokenizer"], base))
    tokens, kinds = [f"[PAD{number}]" for number in range(size)], [TokenType.UNUSED] * size
    for token, number in told["model"]["vocab"].items():
        tokens[number], kinds[number] = token, TokenType.NORMAL
    for added in told["added_tokens"]:
        kind = TokenType.CONTROL if added["special"] else TokenType.USER_DEFINED
        tokens[added["id"]], kinds[added["id"]] = added["content"], kind
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    merges = told["model"]["merges"]
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in merges])
    turn = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    row = encode_row(tokenizer, turn, manifest.stop_ids)
    writer.add_eos_token_id([token for token, trained in zip(row.ids, row.trained, strict=True) if trained][-1])
    if tokenizer.bos_token_id is not None:
        writer.add_bos_token_id(tokenizer.bos_token_id)
    if tokenizer.unk_token_id is not None:
        writer.add_unk_token_id(tokenizer.unk_token_id)
    writer.add_pad_token_id(tokenizer.pad_token_id)
    writer.add_add_bos_token(False)  # the chat template writes what stands at the beginning
    writer.add_add_space_prefix(False)
    writer.add_chat_template(tokenizer.chat_template)


def _splitting(told: dict[str, Any], base: TextBase) -> str:
    """llama.cpp's name of how text is split before the merges."""
    steps = told.get("pretokenizers", [told])
    kinds = [step["type"] for step in steps]
    if kinds == ["ByteLevel"]:
        return "gpt-2"
    if kinds == ["Digits", "ByteLevel"] and steps[0]["individual_digits"]:
        return "smollm"
    pattern = steps[0].get("pattern", {}).get("Regex") if kinds == ["Split", "ByteLevel"] else None
    for name in _SPLITS:
        if pattern == GGUF_PRE_TOKENIZER_SPLITS[name]:
            return name
    raise _unknown(f"tokenizers that split text by {' and '.join(kinds)}", base)


def _tensors(model: Any, arch: MODEL_ARCH) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Name in GGUF -> values in float32, without a head that shares its weights with the words."""
    config = model.config
    names = get_tensor_name_map(arch, config.num_hidden_layers)
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        values = tensor.float().cpu().numpy()
        if arch is MODEL_ARCH.LLAMA and name.endswith(("q_proj.weight", "k_proj.weight")):
            heads = config.num_attention_heads if "q_proj" in name else config.num_key_value_heads
            values = _interleaved(values, heads)
        found = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if found is None:
            raise InvalidRequest(f"GGUF has no name for the tensor {name}.", where="format")
        yield found, np.ascontiguousarray(values)


def _interleaved(values: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    # llama.cpp turns neighbours, transformers the two halves of a head.
    halves = values.reshape(heads, 2, values.shape[0] // heads // 2, *values.shape[1:])
    return halves.swapaxes(1, 2).reshape(values.shape)
