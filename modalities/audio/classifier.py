"""A Whisper encoder with a linear head that names classes: keywords, speakers, emotions."""

from typing import Any

import torch
from torch import Tensor, nn

from modalities.audio.config import POSITIONS_PER_S, RATE
from modalities.audio.encoder import run_encoder


class Classifier(nn.Module):
    """An encoder and a head `[labels, width]` in float32 on the mean of the states that hold the recording.

    Args:
        encoder: openai-whisper's, of a windowed model.
        labels: How many classes there are.
    """

    def __init__(self, encoder: Any, labels: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(encoder.ln_post.normalized_shape[0], labels)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, x: Tensor, samples: Tensor, start: int = 0) -> Tensor:
        """Logits `[clips, labels]`.

        Args:
            x: Log-mel spectrograms in the encoder's type, `[clips, mels, frames]`, or the states at another boundary.
            samples: How many samples each recording has, `[clips]`: what follows in the window is silence.
            start: The boundary of `modalities.audio.encoder` that x stands at.
        """
        logits: Tensor = self.head(mean_states(run_encoder(self.encoder, x, start), samples))
        return logits


def mean_states(states: Tensor, samples: Tensor) -> Tensor:
    """The mean of the encoder's states over each recording, `[clips, width]` in float32.

    Args:
        states: `[clips, positions, width]`.
        samples: How many samples each recording has, `[clips]`.
    """
    step = RATE // POSITIONS_PER_S
    held = ((samples + step - 1) // step).clamp(1, states.shape[1]).to(states.device)
    within = torch.arange(states.shape[1], device=states.device) < held[:, None]
    return (states.float() * within[:, :, None]).sum(1) / held[:, None]
