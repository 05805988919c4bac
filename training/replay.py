"""Endogenous replay: rows that the base writes itself, trained on beside the task's, so that it does not unlearn them.

The base is given the opening of a user's turn and goes on as it was taught to: that gives a question of the kind it
knows. It then answers that question greedily. No data from outside is needed, and none is kept but in the job's folder.

    Xu et al. 2024 (arXiv 2406.08464)     questions from nothing but the template (Magpie)
    Huang et al. 2024 (arXiv 2403.01244)  rehearsal on what a model has synthesised itself
"""

import gc
import json
from collections.abc import Sequence
from typing import Any

from moatelier.contracts import DatasetCard, TrainSpec
from moatelier.errors import DataError, InvalidRequest
from moatelier.ids import canonical_json
from moatelier.job import Job, write_atomically
from modalities.text.template import render
from serving.engine import TextEngine
from serving.row import Prompt, completion
from serving.sampling import Sampling

ASK_TOKENS, ANSWER_TOKENS = 64, 128
TRIES = 4
"""Questions made up for each row that is wanted, at most: some repeat or do not end, or their answers do not."""
TOGETHER = 32
_TASKS = ("classification", "chat")


def with_replay(
    spec: TrainSpec, card: DatasetCard, rows: Sequence[dict[str, Any]], job: Job
) -> Sequence[dict[str, Any]]:
    """The training rows with the base's own beside them: `spec.replay` for each of the task's.

    A job that starts again reads them from its folder.

    Raises:
        InvalidRequest: Rows of this kind cannot be joined by replayed ones.
        DataError: The base writes nothing that ends.
        Cancelled: The job was asked to stop.
    """
    if not spec.replay:
        return rows
    if card.modality != "text" or card.kind not in _TASKS:
        raise InvalidRequest(
            f"Rows of {card.kind} of {card.modality} cannot be replayed.",
            where="replay",
            remedy="Leave it at 0; preference methods hold on to the base by beta.",
        )
    path = job.folder / "replay.json"
    if not path.exists():
        wanted = max(1, round(spec.replay * len(rows)))
        write_atomically(path, canonical_json(written(TextEngine(spec.base), wanted, spec.seed, job)))
        gc.collect()  # the engine, before the base is loaded to be trained
    own = json.loads(path.read_bytes())
    last = max((int(row.get("row", 0)) for row in rows), default=0)
    fresh = [
        {"id": f"replay-{number}", "row": last + number, "messages": turns, "label": None, "group": None}
        for number, turns in enumerate(own, start=1)
    ]
    return [*rows, *fresh]


def written(engine: TextEngine, count: int, seed: int, job: Job) -> list[list[dict[str, str]]]:
    """Conversations of one question and its answer, all different, at most `count` of them.

    Raises:
        DataError: There is not one.
        Cancelled: The job was asked to stop.
    """
    opening, found = _opening(engine), dict[str, str]()
    for start in range(0, TRIES * count, TOGETHER):
        job.check()
        job.emit("progress", start, phase="replay", done=len(found), rows=count)
        fresh = [text for text in _asked(engine, opening, seed + start) if text not in found]
        prompts = [[{"role": "user", "content": text}] for text in dict.fromkeys(fresh)]
        given = engine.generate(prompts, adapter=None, sampling=Sampling(ANSWER_TOKENS)) if prompts else []
        for [turn], answer in zip(prompts, given, strict=True):
            if answer.finish_reason == "stop" and answer.text.strip():
                found[turn["content"]] = answer.text
        if len(found) >= count:
            break
    if not found:
        raise DataError(
            "The base writes no question with an answer that ends.",
            where="replay",
            remedy="Leave `replay` at 0, and tune fewer layers or at a lower rate.",
        )
    kept = list(found.items())[:count]
    return [[{"role": "user", "content": ask}, {"role": "assistant", "content": answer}] for ask, answer in kept]


def _opening(engine: TextEngine) -> list[int]:
    """The ids up to where a user's words begin."""
    tokenizer = engine.base.tokenizer
    whole = render(tokenizer, [{"role": "user", "content": "a"}], False)
    other = render(tokenizer, [{"role": "user", "content": "Z"}], False)
    same = next(place for place, (one, two) in enumerate(zip(whole, other, strict=False)) if one != two)
    return whole[:same]


def _asked(engine: TextEngine, opening: Sequence[int], seed: int) -> list[str]:
    """What the base takes for a user's words, sampled; only what it has ended itself."""
    rows = []
    for number in range(TOGETHER):
        sampling = Sampling(ASK_TOKENS, temperature=1.0, top_p=0.95, seed=seed + number)
        rows += engine.enter([Prompt(list(opening))], adapters=[None], sampling=sampling)
    engine.finish(rows)
    ended = [completion(row) for row in rows]
    return [one.text.strip() for one in ended if one.finish_reason == "stop" and one.text.strip()]
