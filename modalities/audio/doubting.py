"""What Whisper makes of transcripts that are to be curated: their tokens, and how likely it finds them."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from moatelier.job import Job
from modalities.audio.config import LONGEST_WINDOW_S
from modalities.audio.data import AudioRow, open_sound
from modalities.audio.levels import cut
from modalities.audio.model import AudioBase, load_base
from modalities.audio.teaching import row_likelihood
from modalities.audio.transcribing import detect_language

_SPOKEN_BY = 8
"""Recordings by which a multilingual base tells the language of all."""
_TOLD = 50
"""Rows between two words of progress."""


def work(spec: dict[str, Any], job: Job) -> dict[str, Any]:
    """Answer `modalities.audio.curating.questions`.

    Returns:
        `tokens`, by text; and `likelihoods`, pairs of a row's number and nats a token.

    Raises:
        ModelUnavailable: The base is not pulled.
        Cancelled: The job was asked to stop.
    """
    base = load_base(spec["base"])
    rows = [AudioRow(number, audio, text=text) for number, audio, text in spec["rows"]]
    likelihood = row_likelihood(base.with_window(spec["window_s"]), spoken(base, rows))
    found = []
    for done, row in enumerate(rows, start=1):
        job.check()
        found.append([row.number, round(likelihood(row), 4)])
        if done % _TOLD == 0 or done == len(rows):
            job.emit("progress", done, phase="listen", done=done, rows=len(rows))
    tokens = {text: len(base.tokenizer.encode(" " + text.strip())) for text in spec["texts"]}
    return {"tokens": tokens, "likelihoods": found}


def spoken(base: AudioBase, rows: Sequence[AudioRow]) -> str | None:
    """The language that most of a few recordings are in, by the base's ear; None where it knows one alone."""
    if not base.config.multilingual or not rows:
        return None
    step = max(1, len(rows) // _SPOKEN_BY)
    sounds = [open_sound(row).samples for row in rows[::step][:_SPOKEN_BY]]
    pieces = [(sound, cut(sound, LONGEST_WINDOW_S)) for sound in sounds]
    clips = [sound[found[0].start : found[0].stop] for sound, found in pieces if found]
    told = Counter(language for language, _ in detect_language(base.with_window(LONGEST_WINDOW_S), clips))
    return min(told, key=lambda language: (-told[language], language)) if told else None
