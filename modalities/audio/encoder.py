"""Whisper's encoder in parts: what lies below the first tuned block is frozen and runs once a clip.

The parts are numbered by their boundaries: 0 is before everything, where mels come in; `n` in between is below block n;
the number of blocks is the end, behind the last norm.
"""

from typing import Any

from torch import Tensor
from torch.nn.functional import gelu


def run_encoder(encoder: Any, x: Tensor, start: int = 0, stop: int | None = None) -> Tensor:
    """Run a part of an encoder.

    Args:
        encoder: openai-whisper's, of a windowed model, with whatever adapters.
        x: What comes out of the part below: log-mel spectrograms `[clips, mels, frames]` at boundary 0, states
            `[clips, positions, width]` at any other.
        start: The boundary that x stands at.
        stop: The one to go to; default: the end.

    Returns:
        What stands there, in the same two shapes.
    """
    end = len(encoder.blocks)
    stop = end if stop is None else stop
    if start == stop:
        return x
    if start == 0:
        x = gelu(encoder.conv2(gelu(encoder.conv1(x)))).permute(0, 2, 1)
        x = (x + encoder.positional_embedding).to(x.dtype)
    for block in list(encoder.blocks)[start:stop]:
        x = block(x)
    if stop == end:
        x = encoder.ln_post(x)
    return x
