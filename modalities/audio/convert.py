"""How Whisper's weights in other layouts become ours: `model.safetensors` with openai-whisper's names, and `dims.json`.

Weights keep the type they come in; quantised ones become float32.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from whisper.model import AudioEncoder, TextDecoder

from moatelier.errors import IntegrityError, ModelUnavailable, ResourceExhausted
from moatelier.ids import canonical_json
from modalities.audio import ctranslate2
from modalities.audio.config import DIMS, WEIGHTS, AudioConfig

State = dict[str, Tensor]

_AGAIN = "Pull the model again, or take it from another source."


def ctranslate2_whisper(source: Path, to: Path, context: int | None) -> None:
    """Convert a CTranslate2 Whisper model, such as faster-whisper's: `model.bin` with `config.json` beside it.

    Args:
        source: Folder with the files.
        to: Empty folder for `model.safetensors` and `dims.json`.
        context: Not needed; the file says it.

    Raises:
        IntegrityError: The file is damaged, or is no Whisper model.
        ModelUnavailable: A file is missing.
        ResourceExhausted: The disk is full.
    """
    file = source / "model.bin"
    if not file.is_file():
        raise ModelUnavailable("The model's folder lacks a file.", where=str(file))
    tensors = _Tensors(file)
    dims = {
        "n_mels": tensors.shape("encoder/conv1/weight")[1],
        "n_audio_head": tensors.heads("encoder"),
        "n_audio_layer": tensors.layers("encoder"),
        "n_text_head": tensors.heads("decoder"),
        "n_text_layer": tensors.layers("decoder"),
    }
    state = dict(_renamed(tensors, dims["n_audio_layer"], dims["n_text_layer"]))
    heads = _json(source / "config.json").get("alignment_heads")
    _write(to, state, _config(dims, state, heads, file), file)


def hf_whisper(source: Path, to: Path, context: int | None) -> None:
    """Convert a Hugging Face folder of a `WhisperForConditionalGeneration`, of any size.

    Args:
        source: Folder with `config.json` and `model.safetensors`, or its parts and their index.
        to: Empty folder for `model.safetensors` and `dims.json`.
        context: Not needed; the file says it.

    Raises:
        IntegrityError: The weights are damaged or do not fit the configuration.
        ModelUnavailable: A file is missing, or it is no Whisper model.
        ResourceExhausted: The disk is full.
    """
    config = _json(source / "config.json")
    if config.get("model_type") != "whisper":
        raise ModelUnavailable(
            f"This is a model of the type {config.get('model_type')!r}, not Whisper.",
            where=str(source / "config.json"),
            remedy="Name a folder of a Whisper model.",
        )
    dims = {
        "n_mels": config.get("num_mel_bins"),
        "n_audio_head": config.get("encoder_attention_heads"),
        "n_audio_layer": config.get("encoder_layers"),
        "n_text_head": config.get("decoder_attention_heads"),
        "n_text_layer": config.get("decoder_layers"),
    }
    state = {_ours(name): tensor for name, tensor in _hf_tensors(source) if name != "proj_out.weight"}
    generation = source / "generation_config.json"
    heads = _json(generation).get("alignment_heads") if generation.is_file() else None
    _write(to, state, _config(dims, state, heads, source), source)


# ---------------------------------------------------------------- CTranslate2


class _Tensors:
    """CTranslate2's tensors by name, made floating point."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._arrays = ctranslate2.read(file, "WhisperSpec")

    def array(self, name: str) -> ctranslate2.Array:
        if name not in self._arrays:
            raise IntegrityError(f"The file lacks the tensor {name!r}.", where=str(self._file), remedy=_AGAIN)
        return self._arrays[name]

    def shape(self, name: str) -> tuple[int, ...]:
        return (*self.array(name).shape, 0, 0)

    def heads(self, half: str) -> int:
        found = self.array(f"{half}/num_heads")
        return int(found.item()) if found.size == 1 else 0

    def layers(self, half: str) -> int:
        numbers = [re.match(rf"{half}/layer_(\d+)/", name) for name in self._arrays]
        return max((int(match[1]) + 1 for match in numbers if match), default=0)

    def get(self, name: str) -> Tensor:
        """The tensor; integers of 8 or 16 bits are divided by the scale of their row, or of all of them."""
        array = self.array(name)
        if array.dtype == ctranslate2.BFLOAT16:
            return torch.from_numpy(array.view("<i2").copy()).view(torch.bfloat16)
        tensor = torch.from_numpy(array.copy())
        if tensor.is_floating_point():
            return tensor
        scale = torch.from_numpy(self.array(f"{name}_scale").copy()).float()
        if scale.numel() not in (1, *tensor.shape[:1]):
            raise IntegrityError(f"The scales of {name!r} do not fit it.", where=str(self._file), remedy=_AGAIN)
        return tensor.float() / scale.reshape(-1, *[1] * (tensor.dim() - 1))

    def split(self, name: str, parts: int) -> list[Tensor]:
        """A fused projection's equal parts, in order."""
        tensor = self.get(name)
        if not tensor.dim() or tensor.shape[0] % parts:
            raise IntegrityError(f"{name!r} cannot be split in {parts}.", where=str(self._file), remedy=_AGAIN)
        return [part.clone() for part in tensor.chunk(parts)]


def _renamed(tensors: _Tensors, audio_layers: int, text_layers: int) -> Iterator[tuple[str, Tensor]]:
    for conv in ("conv1", "conv2"):
        yield from _plain(tensors, f"encoder/{conv}", f"encoder.{conv}")
    for half, norm, layers in (("encoder", "ln_post", audio_layers), ("decoder", "ln", text_layers)):
        yield f"{half}.positional_embedding", tensors.get(f"{half}/position_encodings/encodings")
        yield from _norm(tensors, f"{half}/layer_norm", f"{half}.{norm}")
        for layer in range(layers):
            yield from _block(tensors, f"{half}/layer_{layer}", f"{half}.blocks.{layer}", half == "decoder")
    yield "decoder.token_embedding.weight", tensors.get("decoder/embeddings/weight")


def _block(tensors: _Tensors, theirs: str, ours: str, crossed: bool) -> Iterator[tuple[str, Tensor]]:
    yield from _norm(tensors, f"{theirs}/self_attention/layer_norm", f"{ours}.attn_ln")
    yield from _fused(tensors, f"{theirs}/self_attention/linear_0", f"{ours}.attn", ("query", "key", "value"))
    yield from _plain(tensors, f"{theirs}/self_attention/linear_1", f"{ours}.attn.out")
    if crossed:
        yield from _norm(tensors, f"{theirs}/attention/layer_norm", f"{ours}.cross_attn_ln")
        yield from _plain(tensors, f"{theirs}/attention/linear_0", f"{ours}.cross_attn.query")
        yield from _fused(tensors, f"{theirs}/attention/linear_1", f"{ours}.cross_attn", ("key", "value"))
        yield from _plain(tensors, f"{theirs}/attention/linear_2", f"{ours}.cross_attn.out")
    yield from _norm(tensors, f"{theirs}/ffn/layer_norm", f"{ours}.mlp_ln")
    yield from _plain(tensors, f"{theirs}/ffn/linear_0", f"{ours}.mlp.0")
    yield from _plain(tensors, f"{theirs}/ffn/linear_1", f"{ours}.mlp.2")


def _plain(tensors: _Tensors, theirs: str, ours: str) -> Iterator[tuple[str, Tensor]]:
    yield f"{ours}.weight", tensors.get(f"{theirs}/weight")
    yield f"{ours}.bias", tensors.get(f"{theirs}/bias")


def _norm(tensors: _Tensors, theirs: str, ours: str) -> Iterator[tuple[str, Tensor]]:
    yield f"{ours}.weight", tensors.get(f"{theirs}/gamma")
    yield f"{ours}.bias", tensors.get(f"{theirs}/beta")


def _fused(tensors: _Tensors, theirs: str, ours: str, parts: tuple[str, ...]) -> Iterator[tuple[str, Tensor]]:
    weights, biases = (tensors.split(f"{theirs}/{kind}", len(parts)) for kind in ("weight", "bias"))
    for part, weight, bias in zip(parts, weights, biases, strict=True):
        yield f"{ours}.{part}.weight", weight
        if part != "key":
            yield f"{ours}.{part}.bias", bias
        elif bias.any():  # CTranslate2 fills in zeros, for Whisper's keys have no bias
            raise IntegrityError(f"{theirs!r} has a bias for its keys, which Whisper has not.", where=theirs)


# ---------------------------------------------------------------- Hugging Face

_RENAMES = (
    (r"^model\.", ""),
    (r"\.layers\.", ".blocks."),
    (r"\.encoder_attn_layer_norm\.", ".cross_attn_ln."),
    (r"\.self_attn_layer_norm\.", ".attn_ln."),
    (r"\.final_layer_norm\.", ".mlp_ln."),
    (r"\.encoder_attn\.", ".cross_attn."),
    (r"\.self_attn\.", ".attn."),
    (r"\.q_proj\.", ".query."),
    (r"\.k_proj\.", ".key."),
    (r"\.v_proj\.", ".value."),
    (r"\.out_proj\.", ".out."),
    (r"\.fc1\.", ".mlp.0."),
    (r"\.fc2\.", ".mlp.2."),
    (r"\.embed_positions\.weight$", ".positional_embedding"),
    (r"\.embed_tokens\.", ".token_embedding."),
    (r"^encoder\.layer_norm\.", "encoder.ln_post."),
    (r"^decoder\.layer_norm\.", "decoder.ln."),
)


def _ours(name: str) -> str:
    for pattern, ours in _RENAMES:
        name = re.sub(pattern, ours, name)
    return name


def _hf_tensors(source: Path) -> Iterator[tuple[str, Tensor]]:
    index = source / f"{WEIGHTS}.index.json"
    names = [WEIGHTS]
    if not (source / WEIGHTS).is_file() and index.is_file():
        parts = _json(index).get("weight_map")
        names = sorted({str(name) for name in parts.values()}) if isinstance(parts, dict) else []
    for name in names:
        if Path(name).name != name or not (source / name).is_file():
            raise ModelUnavailable(
                "The model's folder has no weights in safetensors.",
                where=str(source / name),
                remedy="Convert them first; pickled weights are never loaded.",
            )
        try:
            with safe_open(source / name, "pt") as file:
                for key in file.keys():  # noqa: SIM118  (no mapping, only a method of this name)
                    yield key, file.get_tensor(key)
        except SafetensorError as error:
            raise IntegrityError(
                f"The weights cannot be read: {error}.", where=str(source / name), remedy=_AGAIN
            ) from error


# ---------------------------------------------------------------- both


def _json(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelUnavailable(f"The file cannot be read: {error}.", where=str(file), remedy=_AGAIN) from error
    return found if isinstance(found, dict) else {}


def _config(dims: dict[str, Any], state: State, heads: Any, where: Path) -> AudioConfig:
    """The shape: what the weights cannot tell from `dims`, the rest from the weights."""
    shapes = {
        name: (*state[key].shape, 0, 0) if key in state else (0, 0)
        for name, key in {
            "audio": "encoder.positional_embedding",
            "text": "decoder.positional_embedding",
            "vocab": "decoder.token_embedding.weight",
        }.items()
    }
    fields = dims | {
        "n_audio_ctx": shapes["audio"][0],
        "n_audio_state": shapes["audio"][1],
        "n_text_ctx": shapes["text"][0],
        "n_text_state": shapes["text"][1],
        "n_vocab": shapes["vocab"][0],
        "alignment_heads": heads or (),
    }
    try:
        return AudioConfig.model_validate(fields)
    except ValidationError as error:
        problem = error.errors()[0]
        raise IntegrityError(
            f"This is no Whisper model: {'.'.join(map(str, problem['loc']))}: {problem['msg']}.",
            where=str(where),
            remedy=_AGAIN,
        ) from error


def _expected(config: AudioConfig) -> dict[str, torch.Size]:
    sizes = list(config.dims.values())  # in the order of ModelDimensions: five of the encoder, five of the decoder
    audio, text = sizes[:5], sizes[5:]
    with torch.device("meta"):  # the halves alone: the whole has a sparse buffer, which meta tensors cannot
        encoder = AudioEncoder(*audio)
        decoder = TextDecoder(*text)
    halves = {"encoder": encoder.state_dict(), "decoder": decoder.state_dict()}
    return {f"{half}.{name}": tensor.shape for half, state in halves.items() for name, tensor in state.items()}


def _write(to: Path, state: State, config: AudioConfig, source: Path) -> None:
    """Check that the weights are exactly a Whisper's of this shape, and write both files."""
    expected = _expected(config)
    wrong = sorted(expected.keys() ^ state.keys())
    wrong += sorted(name for name in expected.keys() & state.keys() if expected[name] != state[name].shape)
    if wrong:
        raise IntegrityError(
            f"{len(wrong)} tensors are missing, too many or of another shape, such as {wrong[0]!r}.",
            where=str(source),
            remedy=_AGAIN,
        )
    try:
        save_file({name: tensor.contiguous() for name, tensor in state.items()}, to / WEIGHTS, {"format": "pt"})
        (to / DIMS).write_bytes(canonical_json(config.model_dump(mode="json")))
    except (OSError, SafetensorError) as error:
        raise ResourceExhausted(
            f"The converted model could not be written: {error}.",
            where=str(to),
            remedy="Free some disk space or let MOATELIER_CACHE name another folder.",
        ) from error
