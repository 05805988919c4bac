"""When each word is said: the cross attention's path through the sound, by openai-whisper's own alignment.

The heads that follow the sound are the model's `alignment_heads`; the path is found by dynamic time warping over their
attention (openai-whisper's `timing.find_alignment`).
"""

from collections.abc import Sequence
from dataclasses import dataclass

from whisper.audio import HOP_LENGTH
from whisper.timing import find_alignment

from modalities.audio.levels import Samples
from modalities.audio.model import AudioBase, features
from modalities.machine import DTYPES


@dataclass(frozen=True)
class Word:
    """A word of a transcript. Times are seconds from the recording's start.

    Attributes:
        text: With its punctuation, without blanks.
        start_s: Where it begins.
        stop_s: Where it ends.
        probability: Mean probability of its tokens.
    """

    text: str
    start_s: float
    stop_s: float
    probability: float


def timed(base: AudioBase, clip: Samples, text: str, start_s: float = 0.0) -> list[Word]:
    """The words of a text with their times.

    Args:
        base: The model, whatever adapter is active in it; its window must hold the clip. openai-whisper's alignment
            puts hooks into it, so nothing else may run it meanwhile.
        clip: Samples at 16 kHz in which the text is said.
        text: What is said.
        start_s: Where the clip begins in the recording.

    Raises:
        InvalidRequest: The clip does not fit into the window.
    """
    tokens = base.tokenizer.encode(" " + text.strip())
    mel = features([clip], base)[0].to(DTYPES[base.precision])
    found = find_alignment(base.model, base.tokenizer, tokens, mel, len(clip) // HOP_LENGTH)
    return _in_order(
        [
            Word(
                word.word.strip(),
                round(start_s + float(word.start), 3),
                round(start_s + float(word.end), 3),
                float(word.probability),
            )
            for word in found
            if word.word.strip()
        ]
    )


def _in_order(words: Sequence[Word]) -> list[Word]:
    """Punctuation that stands as a word of its own goes to the word before it."""
    kept: list[Word] = []
    for word in words:
        if kept and not any(char.isalnum() for char in word.text):
            before = kept.pop()
            word = Word(before.text + word.text, before.start_s, word.stop_s, before.probability)
        kept.append(word)
    return kept
