"""What Whisper is taught by: its prompt, the text and the end token, of which text and end token are trained.

The decoder's states at the trained places are handed on without logits, so that `[tokens, vocabulary]` need never exist
as a whole: see `training.loss.frozen_head_loss`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from moatelier.errors import DataError
from modalities.audio.config import RATE, token_limit
from modalities.audio.data import AudioRow, open_sound
from modalities.audio.greedy import prompt_of
from modalities.audio.levels import Samples, cut
from modalities.audio.model import AudioBase, encode, features


@dataclass(frozen=True)
class Lesson:
    """A transcript as tokens.

    Attributes:
        ids: Prompt, text, end token.
        start: Place of the first trained one; all from there on are trained.
    """

    ids: tuple[int, ...]
    start: int

    @property
    def trained(self) -> tuple[int, ...]:
        """The tokens that the loss counts."""
        return self.ids[self.start :]


def lesson(base: AudioBase, text: str, language: str | None = None, where: str = "") -> Lesson:
    """A transcript as Whisper would write it in one window.

    Args:
        base: Gives tokenizer and window.
        text: What is said.
        language: Its code, for a multilingual model.
        where: What its owner calls the row, for the message.

    Raises:
        DataError: It has more tokens than are decoded in the window.
    """
    prompt = prompt_of(base.tokenizer, language)
    tokens = base.tokenizer.encode(" " + text.strip())
    most = token_limit(base.window_s, base.config.n_text_ctx)
    if len(tokens) >= most:
        raise DataError(
            f"The transcript has {len(tokens)} tokens, more than anyone speaks in {base.window_s:g} s.",
            where=where,
            remedy="Cut recording and transcript into shorter parts.",
        )
    return Lesson((*prompt, *tokens, base.tokenizer.eot), len(prompt))


def fitted(sound: Samples, window_s: float, where: str = "") -> Samples:
    """A recording as it is heard in one window: whole where it fits, else without the silence at its ends.

    Raises:
        DataError: It does not fit, or is silent.
    """
    pieces = cut(sound, window_s)
    if len(pieces) != 1:
        told = f"has {len(sound) / RATE:.1f} s of speech, where {window_s:g} s fit" if pieces else "is silent"
        raise DataError(
            f"The recording {told}.", where=where, remedy="Cut it together with its transcript, or drop it."
        )
    return sound[pieces[0].start : pieces[0].stop]


def trained_states(model: Any, lessons: Sequence[Lesson], states: Tensor) -> tuple[Tensor, Tensor]:
    """The decoder's states that predict the trained tokens.

    Args:
        model: openai-whisper's, with whatever adapters.
        lessons: One for each clip.
        states: The encoder's, `[clips, positions, width]`.

    Returns:
        `[tokens, width]` after the last norm, and the tokens' ids `[tokens]`.
    """
    decoder, longest = model.decoder, max(len(each.ids) for each in lessons)
    rows = [[*each.ids, *[each.ids[-1]] * (longest - len(each.ids))] for each in lessons]
    ids = torch.tensor(rows, device=states.device)
    x = (decoder.token_embedding(ids[:, :-1]) + decoder.positional_embedding[: longest - 1]).to(states.dtype)
    for block in decoder.blocks:
        x = block(x, states, mask=decoder.mask)
    x = decoder.ln(x)
    wanted = torch.zeros_like(ids[:, 1:], dtype=torch.bool)
    for row, each in enumerate(lessons):
        wanted[row, each.start - 1 : len(each.ids) - 1] = True
    return x[wanted], ids[:, 1:][wanted]


def head_of(model: Any) -> Callable[[Tensor], Tensor]:
    """The decoder's output layer, which is its token embedding: from `[n, width]` to logits `[n, vocabulary]`."""
    weight = model.decoder.token_embedding.weight

    def head(hidden: Tensor) -> Tensor:
        logits: Tensor = hidden @ weight.to(hidden.dtype).T
        return logits

    return head


def loss(model: Any, lessons: Sequence[Lesson], states: Tensor) -> Tensor:
    """Cross-entropy summed over the trained tokens, in nats; a scalar in float32."""
    hidden, targets = trained_states(model, lessons, states)
    return cross_entropy(head_of(model)(hidden).float(), targets, reduction="sum")


@torch.no_grad()
def likelihoods(base: AudioBase, clips: Sequence[Samples], lessons: Sequence[Lesson]) -> list[float]:
    """How likely the model finds each clip's transcript: natural log probability a token, the end token counted.

    Args:
        base: Its window must hold the clips.
        clips: Samples at 16 kHz.
        lessons: One for each clip.
    """
    hidden, targets = trained_states(base.model, lessons, encode(features(clips, base), base))
    found = -cross_entropy(head_of(base.model)(hidden).float(), targets, reduction="none")
    sizes = [len(each.trained) for each in lessons]
    return [float(part.mean()) for part in torch.split(found, sizes)]


def row_likelihood(base: AudioBase, language: str | None = None) -> Callable[[AudioRow], float]:
    """What `modalities.audio.checks.find` takes to find transcripts of other recordings.

    Rows that do not fit into the window, or say nothing, are reported for that, and are as likely as can be here.
    """

    def found(row: AudioRow) -> float:
        try:
            clip = fitted(open_sound(row).samples, base.window_s)
            return likelihoods(base, [clip], [lesson(base, row.text or "", language)])[0]
        except DataError:
            return 0.0

    return found
