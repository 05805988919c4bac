"""A Whisper base in memory: the model, its tokenizer, its window, and what training and serving must agree on."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from whisper.audio import log_mel_spectrogram
from whisper.model import LayerNorm, ModelDimensions, Whisper
from whisper.tokenizer import get_tokenizer

from moatelier.errors import InvalidRequest, ModelUnavailable
from moatelier.ids import digest_json
from modalities import catalogue
from modalities.audio.config import LONGEST_WINDOW_S, RATE, WEIGHTS, AudioConfig, positions, read_config, samples
from modalities.machine import DTYPES, Precision, choose_precision, set_threads


@dataclass(frozen=True)
class AudioBase:
    """A loaded base. Its weights are frozen and in evaluation mode.

    Attributes:
        model: openai-whisper's own model; its encoder hears exactly the window.
        whole: The same with all positions; they share their weights.
        tokenizer: openai-whisper's own, for English where the model knows several languages.
        entry_id: The catalogue id.
        digest: Names the model's bytes, see `catalogue.base_digest`.
        config: The model's shape, with the encoder's full 30 seconds.
        precision: What is computed in; layer norms stay in float32.
        window_s: How many seconds it hears at once. Whisper was trained on 30; a tuned adapter hears the window that
            it was tuned with, and so the window is part of the adapter.
    """

    model: Any
    whole: Any
    tokenizer: Any
    entry_id: str
    digest: str
    config: AudioConfig
    precision: Precision
    window_s: float = LONGEST_WINDOW_S

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return torch.device(self.model.device)

    @property
    def template_digest(self) -> str:
        """Names what turns a recording into the model's input, the window among it, and tokens into text."""
        tokenizer = self.tokenizer
        return digest_json(
            {
                "window": positions(self.window_s),
                "rate": RATE,
                "mels": self.config.n_mels,
                "prompt": [*tokenizer.sot_sequence_including_notimestamps],
                "tokenizer": tokenizer.encoding.name,
                "vocabulary": self.config.n_vocab,
            }
        )

    def with_window(self, window_s: float) -> "AudioBase":
        """The same weights, adapters among them, with another window.

        Raises:
            InvalidRequest: The model cannot hear such a window.
        """
        return replace(self, model=windowed(self.whole, window_s), window_s=window_s)


def load_base(base_id: str, precision: Literal["auto", "bf16", "fp32"] = "auto") -> AudioBase:
    """Load a pulled Whisper on the GPU if there is one, else on the CPU. Never touches the network.

    Args:
        base_id: A catalogue id.
        precision: `auto` is bf16 on a GPU and float32 on a CPU, as openai-whisper has it: bfloat16 was right on fewer
            words of an unheard speaker, and such models are small enough.

    Raises:
        NotFound: Unknown id.
        ModelUnavailable: Not pulled, not an audio model, or its files do not load.
        IntegrityError: Its files are not those that were pulled.
    """
    catalogue.need_kind(base_id, "audio")
    folder, digest = catalogue.folder(base_id), catalogue.base_digest(base_id)
    set_threads()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    chosen = choose_precision("fp32" if (precision, device) == ("auto", "cpu") else precision, device)
    config = read_config(folder)
    model = load_model(folder, config)
    for module in model.modules():
        if not isinstance(module, LayerNorm):
            for parameter in module.parameters(recurse=False):
                parameter.data = parameter.data.to(DTYPES[chosen])
    tokenizer = get_tokenizer(config.multilingual, num_languages=model.num_languages)
    model.to(device)
    return AudioBase(model, model, tokenizer, base_id, digest, config, chosen)


def load_model(folder: Path, config: AudioConfig) -> Whisper:
    """openai-whisper's model with a converted folder's weights, in float32, frozen, on the CPU.

    Raises:
        ModelUnavailable: The weights do not load.
    """
    model = Whisper(ModelDimensions(**config.dims))
    try:
        model.load_state_dict(load_file(folder / WEIGHTS), strict=True)
    except (OSError, RuntimeError, SafetensorError) as error:
        raise ModelUnavailable(
            f"The model's files do not load: {type(error).__name__}: {error}",
            where=str(folder),
            remedy="Delete the folder and pull the model again.",
        ) from error
    if config.alignment_heads:
        heads = torch.zeros(config.n_text_layer, config.n_text_head, dtype=torch.bool)
        for layer, head in config.alignment_heads:
            heads[layer, head] = True
        model.register_buffer("alignment_heads", heads.to_sparse(), persistent=False)
    return model.eval().requires_grad_(False)


def windowed(model: Whisper, window_s: float) -> Whisper:
    """A view of a model whose encoder hears a shorter window; all weights and all submodules with weights are shared.

    openai-whisper's own encoder insists on as many positions as it has, so that the view has fewer.

    Raises:
        InvalidRequest: The model has fewer positions than the window needs.
    """
    count, most = positions(window_s), model.dims.n_audio_ctx
    if count > most:
        raise InvalidRequest(
            f"The model hears at most {most / 50:g} s at once, not {window_s:g}.",
            where="window_s",
            remedy="Choose a shorter window.",
        )
    encoder = copy.copy(model.encoder)
    encoder._buffers = {**encoder._buffers, "positional_embedding": model.encoder.positional_embedding[:count]}
    view = copy.copy(model)
    view._modules = {**model._modules, "encoder": encoder}
    view.dims = replace(model.dims, n_audio_ctx=count)
    return view


def features(clips: Sequence[NDArray[np.float32]], base: AudioBase) -> Tensor:
    """Log-mel spectrograms by openai-whisper's own function, `[clips, mels, frames]`, on the base's device.

    Args:
        clips: Samples at 16 kHz, `[samples]` each, no longer than the window; the rest of it is silence.
        base: Gives the window and the number of mels.

    Raises:
        InvalidRequest: A clip is longer than the window.
    """
    size = samples(base.window_s)
    mels = []
    for number, clip in enumerate(clips, start=1):
        if len(clip) > size:
            raise InvalidRequest(
                f"Clip {number} of {len(clips)} has {len(clip) / RATE:.2f} s where {base.window_s:g} s fit.",
                where="window_s",
                remedy="Cut it into pieces first.",
            )
        padded = np.zeros(size, np.float32)
        padded[: len(clip)] = clip
        # One by one: the function scales by the loudest of all that it is given.
        mels.append(log_mel_spectrogram(padded, base.config.n_mels, device=base.device))
    return torch.stack(mels)


def encode(mel: Tensor, base: AudioBase) -> Tensor:
    """The encoder's states, `[clips, positions, width]`, of `features`."""
    states: Tensor = base.model.encoder(mel.to(DTYPES[base.precision]))
    return states
