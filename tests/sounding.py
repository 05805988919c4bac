"""Small real things that stand in for Whisper and for recordings: a tiny random model, its files, tones."""

import io
import struct
from pathlib import Path

import numpy as np
import soundfile
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor
from whisper.model import ModelDimensions, Whisper
from whisper.tokenizer import get_tokenizer

from moatelier.ids import canonical_json

DIMS = {
    "n_mels": 80,
    "n_audio_ctx": 1500,
    "n_audio_state": 16,
    "n_audio_head": 2,
    "n_audio_layer": 2,
    "n_vocab": 51864,
    "n_text_ctx": 448,
    "n_text_state": 16,
    "n_text_head": 2,
    "n_text_layer": 2,
}

_LOUD, _SURE = 120.0, 6.0
"""Lengths of a planted place, above what the blocks add to it, and of a planted token, above the other embeddings'."""


def tiny_whisper(seed: int = 0, **dims: int) -> Whisper:
    """A random Whisper of 16 numbers a state; without hidden draws of randomness."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = Whisper(ModelDimensions(**(DIMS | dims)))
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "ln" not in name:
                    parameter.normal_(0, 0.2 if "embedding" in name else 0.4)
    return model.eval().requires_grad_(False)


def saying(model: Whisper, *words: str) -> Whisper:
    """Have a random English Whisper say the first of these words whatever it hears; the others come next to it.

    What it says is planted: a direction at the place where the first token is told, another at all later places, and
    the embeddings of the words and of the end along them.
    """
    tokens = get_tokenizer(multilingual=False)
    first = len(tokens.sot_sequence_including_notimestamps) - 1
    with torch.no_grad():
        places, embeddings = model.decoder.positional_embedding, model.decoder.token_embedding.weight
        width = embeddings.shape[1]
        turned = torch.linalg.qr(torch.cat([torch.ones(width, 1), embeddings[: width - 1].T], 1))[0]  # without a mean
        word, end, *apart = turned.T[1:]
        places[first], places[first + 1 :] = _LOUD * word, _LOUD * end
        embeddings[tokens.eot] = _SURE * end
        for number, text in enumerate(words):
            [token] = tokens.encode(f" {text}")
            embeddings[token] = _SURE * (word if not number else 0.9 * word + 0.4 * apart[number])
    return model


def whisper_folder(folder: Path, model: Whisper) -> Path:
    """The model in our own layout, as a conversion leaves it."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, folder / "model.safetensors")
    (folder / "dims.json").write_bytes(canonical_json(vars(model.dims)))
    return folder


# ---------------------------------------------------------------- CTranslate2's layout, written as it is documented


def ctranslate2_bytes(model: Whisper, kind: str = "f4") -> bytes:
    """The model as CTranslate2 would write it; `kind` is f4, f2, or i1 for quantised matrices."""
    tensors = _theirs(model)
    out = bytearray(struct.pack("<I", 6) + _text("WhisperSpec") + struct.pack("<I", 3))
    numbered: dict[str, NDArray[np.generic]] = {}
    for name, tensor in tensors.items():
        array = tensor.numpy().astype("<f4")
        if kind == "i1" and name.endswith("/weight") and array.ndim >= 2:
            most = np.abs(array.reshape(len(array), -1)).max(axis=1)
            scale = (127 / np.where(most == 0, 127, most)).astype("<f4")
            numbered[name] = np.rint(array * scale.reshape(-1, *[1] * (array.ndim - 1))).astype("i1")
            numbered[f"{name}_scale"] = scale
        else:
            numbered[name] = array.astype("<f2") if kind == "f2" else array
    for half in ("encoder", "decoder"):
        numbered[f"{half}/num_heads"] = np.array(2, "<i2")
    out += struct.pack("<I", len(numbered))
    types = {"<f4": 0, "|i1": 1, "<i2": 2, "<f2": 4}
    for name, value in sorted(numbered.items()):
        data = value.tobytes()
        out += _text(name) + struct.pack("<B", value.ndim) + struct.pack(f"<{value.ndim}I", *value.shape)
        out += struct.pack("<BI", types[value.dtype.str], len(data)) + data
    out += struct.pack("<I", 1) + _text("decoder/projection/weight") + _text("decoder/embeddings/weight")
    return bytes(out)


def _text(text: str) -> bytes:
    return struct.pack("<H", len(text) + 1) + text.encode() + b"\0"


def _theirs(model: Whisper) -> dict[str, Tensor]:
    state = model.state_dict()
    found = {f"encoder/{c}/{k}": state[f"encoder.{c}.{k}"] for c in ("conv1", "conv2") for k in ("weight", "bias")}
    found["decoder/embeddings/weight"] = state["decoder.token_embedding.weight"]
    for half, norm, layers in (("encoder", "ln_post", "n_audio_layer"), ("decoder", "ln", "n_text_layer")):
        found[f"{half}/position_encodings/encodings"] = state[f"{half}.positional_embedding"]
        found |= _theirs_norm(state, f"{half}.{norm}", f"{half}/layer_norm")
        for number in range(getattr(model.dims, layers)):
            ours, theirs = f"{half}.blocks.{number}", f"{half}/layer_{number}"
            found |= _theirs_norm(state, f"{ours}.attn_ln", f"{theirs}/self_attention/layer_norm")
            found |= _theirs_norm(state, f"{ours}.mlp_ln", f"{theirs}/ffn/layer_norm")
            named = {
                "self_attention/linear_0": ["attn.query", "attn.key", "attn.value"],
                "self_attention/linear_1": ["attn.out"],
                "ffn/linear_0": ["mlp.0"],
                "ffn/linear_1": ["mlp.2"],
            }
            if half == "decoder":
                found |= _theirs_norm(state, f"{ours}.cross_attn_ln", f"{theirs}/attention/layer_norm")
                named["attention/linear_0"] = ["cross_attn.query"]
                named["attention/linear_1"] = ["cross_attn.key", "cross_attn.value"]
                named["attention/linear_2"] = ["cross_attn.out"]
            for name, parts in named.items():
                weights = [state[f"{ours}.{part}.weight"] for part in parts]
                biases = [
                    state.get(f"{ours}.{part}.bias", torch.zeros(len(weight)))
                    for part, weight in zip(parts, weights, strict=True)
                ]
                found |= {f"{theirs}/{name}/weight": torch.cat(weights), f"{theirs}/{name}/bias": torch.cat(biases)}
    return found


def _theirs_norm(state: dict[str, Tensor], ours: str, theirs: str) -> dict[str, Tensor]:
    return {f"{theirs}/gamma": state[f"{ours}.weight"], f"{theirs}/beta": state[f"{ours}.bias"]}


# ---------------------------------------------------------------- recordings


def tone(seconds: float, hertz: float = 440.0, rate: int = 16_000, level: float = 0.3) -> NDArray[np.float32]:
    """A sine, `[samples]`."""
    return (level * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def speech(seconds: float, seed: int = 0, rate: int = 16_000) -> NDArray[np.float32]:
    """Bursts of many tones with pauses between them, different for every seed, `[samples]`."""
    chance = np.random.default_rng(seed)
    out = np.zeros(round(seconds * rate), np.float32)
    at = rate // 10
    while at < len(out) - rate // 10:
        length = int(chance.uniform(0.1, 0.4) * rate)
        burst = sum(tone(length / rate, float(chance.uniform(100, 3000)), rate, 0.1) for _ in range(4))
        out[at : at + length] = burst[: max(0, len(out) - at)]
        at += length + int(chance.uniform(0.05, 0.3) * rate)
    return out


def sound_bytes(samples: NDArray[np.float32], rate: int = 16_000, form: str = "WAV", subtype: str = "PCM_16") -> bytes:
    """A recording as a file's bytes; `samples` is `[samples]` or `[samples, channels]`."""
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=form, subtype=None if form in ("MP3", "OGG") else subtype)
    return file.getvalue()
