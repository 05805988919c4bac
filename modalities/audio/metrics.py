"""How far a transcript is from what was said: word and character error rates by jiwer, and words that are all right.

Both texts are normalised first, as openai-whisper's own evaluation does (Radford et al. 2022, arXiv 2212.04356): case,
punctuation and spellings go, and "twenty-one" is "21". Errors may outnumber the words, so that a rate can be above 1.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import jiwer
from whisper.normalizers import BasicTextNormalizer, EnglishTextNormalizer


@dataclass(frozen=True)
class RowErrors:
    """One transcript against what was said; rates of many are sums of these over sums.

    Attributes:
        words: In what was said.
        word_errors: Substituted, deleted and inserted words.
        chars: In what was said, blanks counted.
        char_errors: Substituted, deleted and inserted characters.
        exact: Whether nothing differs.
    """

    words: int
    word_errors: int
    chars: int
    char_errors: int
    exact: bool


@dataclass(frozen=True)
class Scores:
    """Of some transcripts.

    Attributes:
        rows: How many there are.
        wer: Word errors by words said.
        cer: Character errors by characters said.
        exact: Share of transcripts with no error.
    """

    rows: int
    wer: float
    cer: float
    exact: float


def normalise(text: str, language: str = "en") -> str:
    """A text as it is compared.

    Args:
        text: What was said or heard.
        language: Its code: English has rules of its own, in Chinese, Japanese, Thai and their like every character is
            a word.
    """
    plain: str = _normaliser(language)(text)
    return " ".join(plain.split())


def row_errors(said: str, heard: str, language: str = "en") -> RowErrors:
    """Compare one transcript with what was said; where nothing was said, all that was heard is an error."""
    reference, hypothesis = normalise(said, language), normalise(heard, language)
    words = len(reference.split())
    if not reference or not hypothesis:
        return RowErrors(
            words,
            words + len(hypothesis.split()),
            len(reference),
            len(reference) + len(hypothesis),
            reference == hypothesis,
        )
    found, letters = jiwer.process_words(reference, hypothesis), jiwer.process_characters(reference, hypothesis)
    return RowErrors(words, _errors(found), len(reference), _errors(letters), reference == hypothesis)


def scores(rows: Sequence[RowErrors]) -> Scores:
    """The rates over some transcripts; without any words an error rate is the number of errors, without rows 0."""
    words, chars = sum(row.words for row in rows), sum(row.chars for row in rows)
    return Scores(
        rows=len(rows),
        wer=sum(row.word_errors for row in rows) / max(1, words),
        cer=sum(row.char_errors for row in rows) / max(1, chars),
        exact=sum(row.exact for row in rows) / max(1, len(rows)),
    )


def by_speaker(rows: Sequence[RowErrors], speakers: Sequence[str | None]) -> dict[str, Scores]:
    """The rates of each speaker, sorted by name; rows without one stand under ""."""
    found: dict[str, list[RowErrors]] = defaultdict(list)
    for row, speaker in zip(rows, speakers, strict=True):
        found[speaker or ""].append(row)
    return {speaker: scores(found[speaker]) for speaker in sorted(found)}


def _errors(found: Any) -> int:
    return int(found.substitutions + found.deletions + found.insertions)


@lru_cache(maxsize=8)
def _normaliser(language: str) -> Any:
    if language == "en":
        return EnglishTextNormalizer()
    return BasicTextNormalizer(split_letters=language in ("zh", "ja", "th", "lo", "my", "yue"))
