"""Numbers about one request, from its words, which are forgotten: what drift and monitors are told by.

    prompt     its length, its language, whether it tries to inject instructions, a floor of toxicity
    answer     its length, a refusal, the form that was asked for, its repetition, the entropy of its tokens
    both       tokens, milliseconds, cost; a small vector of the prompt's letters

Lists of words find only what they name: these are floors, cheap enough for every request, and their *change* is what
is watched. The vector hashes three-letter pieces (Weinberger et al. 2009, arXiv 0902.2206) into `DIMS` numbers.
"""

import base64
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.feature_extraction.text import HashingVectorizer

DIMS = 64
READ = 4000
"""Characters of a prompt or an answer that are looked at."""
_INJECTION = re.compile(
    r"\b(ignore|disregard|forget|override)\b.{0,40}\b(instructions?|prompts?|rules|system|above|previous|prior)\b"
    r"|\b(reveal|print|repeat|show)\b.{0,30}\b(system|hidden|initial)\b.{0,10}\b(prompt|instructions?|message)\b"
    r"|\byou are now\b|\bjailbreak|\bDAN\b|\bdeveloper mode\b|<\|?(im_start|system)\|?>|\[/?INST\]",
    re.I | re.S,
)
_TOXIC = re.compile(
    r"\b(idiots?|morons?|stupid|fuck\w*|shit\w*|bitch\w*|bastards?|asshole\w*|kill yourself|retard\w*|scum|whores?"
    r"|cunts?|die in a fire|worthless)\b",
    re.I,
)
_REFUSAL = re.compile(
    r"\b(i('m| am) (sorry|unable|not able)|i can(no|')t|i won't|as an ai|i must decline|cannot (help|assist|comply))\b",
    re.I,
)
_WORD = re.compile(r"\w+")
_STOPS: Mapping[str, frozenset[str]] = {
    "en": frozenset("the and is are to of in my it you that for with was not have this but on at".split()),
    "de": frozenset("der die das und ist nicht ich mein zu mit auf ein eine den von sie es war bitte".split()),
    "fr": frozenset("le la les et est pas je mon une des que pour avec sur dans vous il elle ce".split()),
    "es": frozenset("el la los y es no mi una que por con para en del se lo como esta muy".split()),
    "it": frozenset("il la e non mio una che per con di sono del si lo come questo gli ho".split()),
    "pt": frozenset("o a os e não meu uma que por com para em do se como esta isso foi".split()),
}
_SCRIPTS = (
    ("ru", "\u0400", "\u04ff"),
    ("ar", "\u0600", "\u06ff"),
    ("zh", "\u4e00", "\u9fff"),
    ("ja", "\u3040", "\u30ff"),
)


@dataclass(frozen=True)
class Heard:
    """One request with its words, on its way to becoming numbers.

    Attributes:
        prompt: What was said last.
        answer: What was answered; "" after an error.
        error: Code of what went wrong.
        milliseconds: From the request to the answer's end.
        prompt_tokens, completion_tokens: As the engine told them; 0 where it did not.
        form: What the answer had to be: `json`, one of `labels`, or nothing.
        labels: Of a classifier.
        logprobs: Of the answer's tokens, where they were asked for.
    """

    prompt: str
    answer: str
    error: str = ""
    milliseconds: float = 0.0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    form: str = ""
    labels: tuple[str, ...] = ()
    logprobs: tuple[float, ...] = ()


def is_formed(heard: Heard) -> bool | None:
    """Whether the answer has the form that was asked for; None where none was."""
    if heard.form == "json":
        try:
            json.loads(heard.answer)
        except ValueError:
            return False
        return True
    return heard.answer.strip() in heard.labels if heard.form == "labels" else None


def is_good(heard: Heard, slow_s: float) -> bool:
    """Answered without an error, with something, in time, and in the form that was asked for."""
    in_time = heard.milliseconds <= 1000 * slow_s
    return not heard.error and bool(heard.answer.strip()) and in_time and is_formed(heard) is not False


def numbers(heard: Heard, price_per_hour: float | None = None) -> dict[str, Any]:
    """Name -> number; what does not apply is left out, and of a failed request the answer's are."""
    prompt, answer = heard.prompt[:READ], heard.answer[:READ]
    told: dict[str, Any] = {
        "error": int(bool(heard.error)),
        "ms": round(heard.milliseconds, 1),
        "prompt_chars": len(heard.prompt),
        "injection": int(bool(_INJECTION.search(prompt))),
        "prompt_toxic": int(bool(_TOXIC.search(prompt))),
        "language": language(prompt),
    }
    if price_per_hour is not None:
        told["cost"] = round(heard.milliseconds * price_per_hour / 3.6e6, 9)
    if heard.prompt_tokens or heard.completion_tokens:
        told |= {"prompt_tokens": heard.prompt_tokens, "completion_tokens": heard.completion_tokens}
    if prompt.strip():
        told["vector"] = packed(vectors([prompt])[0])
    if not heard.error:
        told |= _of_answer(heard, answer)
    return told


def _of_answer(heard: Heard, answer: str) -> dict[str, Any]:
    told: dict[str, Any] = {
        "answer_chars": len(heard.answer),
        "refusal": int(bool(_REFUSAL.search(answer[:400]))),
        "answer_toxic": int(bool(_TOXIC.search(answer))),
        "repetition": repetition(answer),
    }
    if (formed := is_formed(heard)) is not None:
        told["formed"] = int(formed)
    if heard.logprobs:
        told["entropy"] = round(-float(np.mean(heard.logprobs)), 4)
    return told


def language(text: str) -> str:
    """A guess by common words or by script: a code, or "" where nothing tells."""
    for code, first, last in _SCRIPTS:
        if sum(first <= char <= last for char in text) > len(text) / 4:
            return code
    counts = Counter(word.lower() for word in _WORD.findall(text))
    found = {code: sum(counts[word] for word in words) for code, words in _STOPS.items()}
    best = max(found, key=lambda code: found[code])
    return best if found[best] else ""


def repetition(text: str) -> float:
    """Share of the text's runs of three words that stood there before; 0 for fewer than six words."""
    words = text.split()
    if len(words) < 6:
        return 0.0
    runs = list(zip(words, words[1:], words[2:], strict=False))
    return round(1 - len(set(runs)) / len(runs), 4)


@cache
def _hashing() -> HashingVectorizer:
    return HashingVectorizer(analyzer="char_wb", ngram_range=(3, 3), n_features=DIMS, norm="l2")


def vectors(texts: Sequence[str]) -> NDArray[np.float32]:
    """Texts as vectors of unit length `[texts, DIMS]`."""
    return np.asarray(_hashing().transform(texts).toarray(), dtype=np.float32)


def packed(vector: NDArray[np.float32]) -> str:
    """Base64 of float16."""
    return base64.b64encode(vector.astype("<f2").tobytes()).decode()


def unpacked(told: str) -> NDArray[np.float32]:
    """What `packed` wrote `[DIMS]`."""
    return np.frombuffer(base64.b64decode(told), dtype="<f2").astype(np.float32)
