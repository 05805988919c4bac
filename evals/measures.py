"""Measures of answers beside right and wrong: how sure, how consistent, how well grounded. Pure; models are handed in.

Manakul et al. 2023 (arXiv 2303.08896)    consistency of samples as a sign of truth (SelfCheckGPT)
Farquhar et al. 2024, Nature 630:625      entropy over meanings, not over wordings
Es et al. 2023 (arXiv 2309.15217)         context relevance (RAGAS)
Zheng et al. 2023 (arXiv 2306.05685)      a model as judge, asked in both orders
Pleiss et al. 2020 (arXiv 2001.10528)     margins over training find wrong labels
"""

import math
import re
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from evals.graders import read_label
from evals.statistics import wilson
from moatelier.contracts import Contract, Interval
from moatelier.errors import DataError, UpstreamError

Alike = Callable[[str, str], float]
"""How alike two texts are, 0 to 1."""
Likelihood = Callable[[Sequence[str]], float]
"""Chunks -> the log probability of the answer after them, in nats a token."""
ALIKE = 0.6
"""Two texts that are so alike say the same."""
COVERED = 0.5
"""So much of a sentence's words must be found for it to be covered."""
_SENTENCE = re.compile(r"(?<=[.!?])\s+|\n+")
_WORD = re.compile(r"\w+")
_FILLING = frozenset(
    "a an and are as at be been but by can could did do does for from had has have he her his how i if in is it its "
    "me my no not of on or our she should so than that the their them then there these they this to was we were what "
    "when where which who why will with would you your".split()
)


class Uncertainty(Contract):
    """How unsure a model was of the tokens that it gave.

    Attributes:
        entropy: Mean entropy of a token in nats, over the alternatives that are known and the rest as one.
        logprob: Mean log probability of the tokens given, in nats.
        weakest: The lowest of them.
    """

    entropy: float
    logprob: float
    weakest: float


class Consistency(Contract):
    """How far several samples agree.

    Attributes:
        agreement: The share of pairs of samples that say the same, 0 to 1; near 0 what is made up.
        entropy: Over meanings, in nats; 0 where all samples mean the same.
        meanings: How many there are.
        answer: A sample of the commonest meaning.
    """

    agreement: float
    entropy: float
    meanings: int
    answer: str


class Grounding(Contract):
    """What an answer rests on, chunk by chunk.

    Attributes:
        attribution: By how many nats a token the answer is likelier with the chunk than without it.
        utilisation: The share of the chunk's sentences without which the answer is less likely.
        first: Which chunk it rests on most.
    """

    attribution: tuple[float, ...]
    utilisation: tuple[float, ...]
    first: int


class Preferences(Contract):
    """What a judge prefers, asked in both orders.

    Attributes:
        wins: How often ours was preferred in both orders.
        losses: How often the other was.
        ties: The judge took the first, or the second, both times, or saw none better.
        unjudged: How often it gave none of the labels; they count for nobody.
        swayed: The share of judged pairs that its place decided.
        rate: The share of wins among wins and losses; None without any.
    """

    wins: int
    losses: int
    ties: int
    unjudged: int
    swayed: float
    rate: Interval | None


def uncertainty(told: Sequence[tuple[float, Mapping[int, float]]]) -> Uncertainty:
    """Of an answer's tokens.

    Args:
        told: Of each token its log probability, and those of the likeliest alternatives, itself among them or not.

    Raises:
        DataError: There are no tokens.
    """
    if not told:
        raise DataError("There are no tokens to be unsure of.")
    entropies = [_entropy([math.exp(one) for one in top.values()] or [math.exp(own)]) for own, top in told]
    logprobs = [own for own, _ in told]
    return Uncertainty(entropy=sum(entropies) / len(told), logprob=sum(logprobs) / len(told), weakest=min(logprobs))


def _entropy(known: Sequence[float]) -> float:
    rest = max(0.0, 1 - sum(known))
    return -sum(share * math.log(share) for share in (*known, rest) if share > 1e-12)


def overlap(one: str, other: str) -> float:
    """The F1 of the words of substance of two texts; equal texts without any are alike."""
    ours, theirs = (Counter(words(text)) for text in (one, other))
    if not ours or not theirs:
        return float(one.strip().casefold() == other.strip().casefold())
    return 2 * (ours & theirs).total() / (ours.total() + theirs.total())


def words(text: str) -> list[str]:
    """A text's words of substance, lower-cased."""
    return [word for word in _WORD.findall(text.lower()) if word not in _FILLING]


def consistency(samples: Sequence[str], alike: Alike = overlap) -> Consistency:
    """Whether a model says the same when it is asked again: the more its samples differ, the likelier they are made up.

    Args:
        samples: Answers to one question, sampled at a temperature above 0; at least two.
        alike: Tells how alike two are; `overlap` needs no model.

    Raises:
        DataError: There are fewer than two samples.
    """
    if len(samples) < 2:
        raise DataError("Consistency takes at least two samples.", remedy="Ask more often.")
    same = [[alike(one, other) >= ALIKE for other in samples] for one in samples]
    meanings: list[list[int]] = []
    for number in range(len(samples)):
        home = next((meaning for meaning in meanings if same[number][meaning[0]]), None)
        if home is None:
            meanings.append([number])
        else:
            home.append(number)
    pairs = [(one, other) for one in range(len(samples)) for other in range(one)]
    shares = [len(meaning) / len(samples) for meaning in meanings]
    return Consistency(
        agreement=sum(same[one][other] for one, other in pairs) / len(pairs),
        entropy=max(0.0, -sum(share * math.log(share) for share in shares)),
        meanings=len(meanings),
        answer=samples[max(meanings, key=len)[0]],
    )


def sentences(text: str) -> list[str]:
    """A text's sentences, by their ends and by lines."""
    return [part.strip() for part in _SENTENCE.split(text) if words(part)]


def _found(sentence: str, text: str) -> float:
    """How much of a sentence's words of substance a text holds."""
    wanted, held = words(sentence), set(words(text))
    return sum(word in held for word in wanted) / len(wanted) if wanted else 0.0


def context_relevance(question: str, chunks: Sequence[str]) -> float:
    """The share of the context's sentences that speak of what is asked: share a word of substance with the question.

    Raises:
        DataError: The context has no sentences.
    """
    held = [sentence for chunk in chunks for sentence in sentences(chunk)]
    if not held:
        raise DataError("The context has no sentences.", where="chunks")
    return sum(_found(question, sentence) > 0 for sentence in held) / len(held)


def completeness(answer: str, reference: str) -> float:
    """The share of the reference's sentences that the answer covers.

    Args:
        answer: What was said.
        reference: All that should be said: a written answer, or the part of the context that is relevant.

    Raises:
        DataError: The reference says nothing.
    """
    wanted = sentences(reference)
    if not wanted:
        raise DataError("The reference says nothing.", where="reference")
    return sum(_found(sentence, answer) >= COVERED for sentence in wanted) / len(wanted)


def grounding(chunks: Sequence[str], likelihood: Likelihood) -> Grounding:
    """What an answer rests on, by leaving out each chunk and each sentence in turn.

    Args:
        chunks: As they were shown.
        likelihood: How likely the answer is after a selection of them.

    Raises:
        DataError: There are no chunks.
    """
    if not chunks:
        raise DataError("There are no chunks to rest on.", where="chunks")
    whole = likelihood(chunks)
    attribution = [whole - likelihood([*chunks[:place], *chunks[place + 1 :]]) for place in range(len(chunks))]
    utilisation = []
    for place, chunk in enumerate(chunks):
        parts = sentences(chunk)
        used = 0
        for number in range(len(parts)):
            left = " ".join(part for other, part in enumerate(parts) if other != number)
            used += likelihood([*chunks[:place], *([left] if left else []), *chunks[place + 1 :]]) < whole
        utilisation.append(used / len(parts) if parts else 0.0)
    first = max(range(len(chunks)), key=attribution.__getitem__)
    return Grounding(attribution=tuple(attribution), utilisation=tuple(utilisation), first=first)


def error_potential(margins: NDArray[np.floating[Any]]) -> NDArray[np.floating[Any]]:
    """How likely each row's label is wrong, 0 to 1, by its rank among all.

    Args:
        margins: Of each epoch and row the log probability of its own label less that of the likeliest other one
            [epochs, rows]. A wrong label has low ones for long, until it is learnt by heart.

    Raises:
        DataError: There are no rows.
    """
    if margins.size == 0:
        raise DataError("There are no rows to rank.")
    ranks = stats.rankdata(-margins.mean(axis=0))
    return np.asarray((ranks - 0.5) / margins.shape[1])


Ask = Callable[[list[dict[str, str]]], Awaitable[str]]
Choice = Literal["ours", "theirs", "tie"]
LABELS = ("first", "second", "neither")
JUDGE = (
    "You compare two answers to a question. Say `first` or `second` for the better one, `neither` if they are equally "
    "good. Judge what is said, not how long it is. Answer with one word."
)


async def preferred(question: str, ours: str, theirs: str, ask: Ask) -> tuple[Choice, bool]:
    """Which of two answers a judge prefers in both orders, and whether its place decided.

    Raises:
        UpstreamError: The judge gave none of the labels, or more than one.
    """
    said = [await _order(question, pair, ask) for pair in ((ours, theirs), (theirs, ours))]
    votes = ({"first": "ours", "second": "theirs"}.get(said[0]), {"first": "theirs", "second": "ours"}.get(said[1]))
    if votes[0] == votes[1] == "ours":
        return "ours", False
    if votes[0] == votes[1] == "theirs":
        return "theirs", False
    return "tie", said[0] == said[1] != "neither"


async def _order(question: str, pair: tuple[str, str], ask: Ask) -> str:
    text = f"Question:\n{question}\n\nFirst answer:\n{pair[0]}\n\nSecond answer:\n{pair[1]}"
    said = await ask([{"role": "system", "content": JUDGE}, {"role": "user", "content": text}])
    return read_label(said, LABELS, "judge")


async def preferences(rows: Sequence[tuple[str, str, str]], ask: Ask) -> Preferences:
    """What a judge prefers over many (question, ours, theirs); what it cannot judge is counted, and decides nothing.

    Raises:
        DataError: There are no rows.
    """
    if not rows:
        raise DataError("There are no pairs to judge.")
    tally: Counter[str] = Counter()
    for question, ours, theirs in rows:
        try:
            choice, swayed = await preferred(question, ours, theirs, ask)
        except UpstreamError:
            tally["unjudged"] += 1
            continue
        tally[choice] += 1
        tally["swayed"] += swayed
    decided, judged = tally["ours"] + tally["theirs"], len(rows) - tally["unjudged"]
    return Preferences(
        wins=tally["ours"],
        losses=tally["theirs"],
        ties=tally["tie"],
        unjudged=tally["unjudged"],
        swayed=tally["swayed"] / judged if judged else 0.0,
        rate=wilson(tally["ours"], decided) if decided else None,
    )
