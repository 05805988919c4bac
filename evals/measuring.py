"""The measures of `evals.measures` on rows of a file, with an engine: what `moatelier eval FILE.jsonl` tells.

A row is `{"question": ..., "chunks": [...], "answer": ..., "reference": ..., "other": ...}`; all but the question may
be missing. An answer that is not given is the model's own; `other` is one that a judge compares it with.
"""

import json
import math
from collections.abc import Sequence
from statistics import fmean
from typing import Any

from pydantic import Field, ValidationError

from evals import measures
from moatelier.contracts import Contract
from moatelier.errors import DataError
from modalities.text.template import render
from serving.engine import TextEngine
from serving.row import Prompt
from serving.sampling import Sampling, TokenLogprob
from training.text import encode

NEW_TOKENS, SAMPLES, TOP = 128, 4, 20
"""Of an answer; of a question, for its consistency; alternatives of a token, for its entropy."""


class Measured(Contract):
    """A row to be measured."""

    question: str = Field(min_length=1)
    chunks: tuple[str, ...] = ()
    answer: str | None = None
    reference: str | None = None
    other: str | None = None

    def messages(self, chunks: Sequence[str] | None = None) -> list[dict[str, str]]:
        """What a model is asked, with some of the chunks, or all."""
        shown = self.chunks if chunks is None else chunks
        context = "".join(f"- {chunk}\n" for chunk in shown)
        text = f"Context:\n{context}\nQuestion: {self.question}" if shown else self.question
        return [{"role": "user", "content": text}]


def read(text: str, where: str) -> list[Measured]:
    """The rows of JSON lines.

    Raises:
        DataError: There are none, or one cannot be read; says which.
    """
    rows = []
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip():
            try:
                rows.append(Measured.model_validate(json.loads(line)))
            except (ValueError, ValidationError) as error:
                raise DataError(
                    "The row cannot be measured.",
                    where=f"{where}, line {number}",
                    remedy='Give {"question": ..., "chunks": [...], "answer": ..., "reference": ...}.',
                ) from error
    if not rows:
        raise DataError("The file has no rows.", where=where, remedy="Give one JSON object a line.")
    return rows


def measure(engine: TextEngine, rows: Sequence[Measured], *, adapter: str | None, seed: int = 0) -> dict[str, Any]:
    """Every measure that a row allows, row by row, and their means.

    Args:
        engine: With the adapter loaded.
        rows: At least one.
        adapter: The name it is loaded under; None is the base.
        seed: Of the samples.
    """
    found = [_row(engine, row, adapter, seed + SAMPLES * number) for number, row in enumerate(rows)]
    names = dict.fromkeys(name for one in found for name, value in one.items() if isinstance(value, float))
    means = {name: fmean(one[name] for one in found if name in one) for name in names}
    return {"rows": found, "means": {name: round(value, 6) for name, value in means.items()}}


def _row(engine: TextEngine, row: Measured, adapter: str | None, seed: int) -> dict[str, Any]:
    told: dict[str, Any] = {"prompt_perplexity": _prompt_perplexity(engine, row, adapter)}
    answer = row.answer
    if answer is None:
        answer = engine.generate([row.messages()], adapter=adapter, sampling=Sampling(NEW_TOKENS))[0].text
        samples = [_sample(engine, row, adapter, seed + turn) for turn in range(SAMPLES)]
        same = measures.consistency(samples)
        told |= {"self_consistency": same.agreement, "semantic_entropy": same.entropy}
    told["answer"] = answer
    tokens = _told(engine, row.messages(), answer, adapter, TOP)
    unsure = measures.uncertainty([(one.logprob, dict(one.top)) for one in tokens])
    told |= {"perplexity": math.exp(-unsure.logprob), "token_entropy": unsure.entropy, "weakest": unsure.weakest}
    if row.reference:
        told["completeness"] = measures.completeness(answer, row.reference)
    if row.chunks:
        told["context_relevance"] = measures.context_relevance(row.question, row.chunks)
        rests = measures.grounding(row.chunks, lambda shown: _likelihood(engine, row, shown, answer, adapter))
        told |= {"attribution": list(rests.attribution), "utilisation": list(rests.utilisation)}
        told |= {"first_chunk": rests.first, "chunk_utilisation": rests.utilisation[rests.first]}
    return told


def _sample(engine: TextEngine, row: Measured, adapter: str | None, seed: int) -> str:
    sampling = Sampling(NEW_TOKENS, temperature=1.0, seed=seed)
    return engine.generate([row.messages()], adapter=adapter, sampling=sampling)[0].text


def _prompt_perplexity(engine: TextEngine, row: Measured, adapter: str | None) -> float:
    """Of the question as it is put: among how many tokens the model wavers while it reads."""
    [told] = engine.score([render(engine.base.tokenizer, row.messages(), True)], adapter=adapter)
    return math.exp(-fmean(told))


def _likelihood(engine: TextEngine, row: Measured, shown: Sequence[str], answer: str, adapter: str | None) -> float:
    return fmean(one.logprob for one in _told(engine, row.messages(shown), answer, adapter, 0))


def _told(
    engine: TextEngine, messages: list[dict[str, str]], answer: str, adapter: str | None, top: int
) -> list[TokenLogprob]:
    """What the model thought of each token of the answer and of what ends it."""
    turns = [*messages, {"role": "assistant", "content": answer}]
    [example] = encode(engine.base, "dev", [{"row": 1, "messages": turns}], engine.invocation(adapter))
    [scored] = engine.enter([Prompt(example.ids)], adapters=[adapter], sampling=Sampling(1), scored=top, limit=0)
    engine.finish([scored])
    return [one for one, trained in zip(scored.prompt_told, example.trained[1:], strict=True) if trained]
