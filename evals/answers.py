"""Rows to answers, of one subject and at temperature 0. A killed job goes on: whole chunks of answers are kept.

Chunks are cut by content, so a restarted job computes the very batches an undisturbed one does. Only answers and ids
are kept in the folder, never the rows.
"""

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

from evals.liking import like_all
from evals.matching import Matcher, match_all
from evals.rows import EvalRow, split_rows
from evals.rows import answer_limit as rows_limit
from evals.scorers import Answered
from moatelier.contracts import CANDIDATES, DatasetCard, Kind
from moatelier.ids import canonical_json, digest_json
from moatelier.job import Job, write_atomically
from modalities.bundle import bundle_folder
from serving.engine import TextEngine
from serving.engines import Engine
from serving.sampling import Sampling

CHUNK_ROWS = 64
MEDIA_TOKENS = 448
"""Limit of an answer on a picture or a recording: Whisper's context, a window of which it fills by half at most."""
Progress = Callable[[int, float], None]
"""Called with (rows done, expected seconds left) after each chunk; may raise to stop."""


def answer(
    engine: Engine,
    card: DatasetCard,
    rows: Sequence[EvalRow],
    *,
    adapter: str | None,
    folder: Path,
    progress: Progress,
    whole: Sequence[EvalRow] = (),
    blind: bool = False,
) -> list[Answered]:
    """Answer rows of a dataset as its kind of task is answered; arguments as for `answer_all`.

    Args:
        engine: See there.
        card: The dataset.
        rows: See there.
        adapter: See there.
        folder: See there.
        progress: See there.
        whole: All rows of the split, where `rows` are a part of them: what is sought is sought among all.
        blind: Of questions about pictures: show none, so that only the words tell.
    """
    if card.kind == "retrieval":
        split = whole or rows
        others = split_rows(card, "train") if len(split) < CANDIDATES else []
        found = match_all(cast(Matcher, engine), split, others, adapter=adapter, folder=folder, progress=progress)
        wanted = {row.id for row in rows}
        return [one for row, one in zip(split, found, strict=True) if row.id in wanted]
    if card.kind in ("preference", "thumbs"):
        return like_all(cast(TextEngine, engine), rows, adapter=adapter, folder=folder, progress=progress)
    limit = answer_limit(engine, card.kind, card.labels, rows)
    return answer_all(engine, rows, adapter=adapter, max_tokens=limit, folder=folder, progress=progress, blind=blind)


def load_subject(engine: Engine, bundle: str | None) -> str | None:
    """Load a sealed bundle and return the name the engine knows it by; None is the base.

    Raises:
        NotFound: There is no such bundle.
        IntegrityError: It was changed, or belongs to another base or template.
    """
    if bundle is not None:
        engine.load_adapter(bundle, bundle_folder(bundle))
    return bundle


def answer_limit(engine: Engine, kind: Kind, labels: Sequence[str], rows: Sequence[EvalRow]) -> int:
    """`evals.rows.answer_limit` by the tokenizer of an engine for text."""
    if (speaks := _speaks(engine)) is None:
        return MEDIA_TOKENS
    tokenizer = speaks.base.tokenizer

    def lengths(texts: list[str]) -> list[int]:
        return [len(ids) for ids in tokenizer(texts, add_special_tokens=False).input_ids]

    return rows_limit(lengths, kind, labels, rows)


def _speaks(engine: Engine) -> TextEngine | None:
    """The text engine that an engine is, or has beside its eyes."""
    found = getattr(engine, "text", engine)
    return found if isinstance(found, TextEngine) else None


def answer_all(
    engine: Engine,
    rows: Sequence[EvalRow],
    *,
    adapter: str | None,
    max_tokens: int,
    folder: Path,
    progress: Progress,
    blind: bool = False,
) -> list[Answered]:
    """Answer every row at temperature 0.

    Args:
        engine: With the adapter loaded.
        rows: As `evals.rows.read_rows` gives them.
        adapter: The name it is loaded under; None is the base.
        max_tokens: Limit of an answer.
        folder: Where chunks of answers are kept; a rerun reads them instead of generating.
        progress: Told after each chunk.
        blind: See `answer`.

    Returns:
        The answers in the order of the rows.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    sampling = Sampling(max_tokens=max_tokens)
    seeing: dict[str, Any] = {"blind": True} if blind else {}
    answers: list[tuple[str, bool]] = []
    started, generated = time.monotonic(), 0
    for start in range(0, len(rows), CHUNK_ROWS):
        chunk = rows[start : start + CHUNK_ROWS]
        key = digest_json([adapter, max_tokens, [row.messages for row in chunk], *(["blind"] if blind else [])])
        path = folder / f"{key[:32]}.json"
        if not path.exists():
            completions = engine.generate([row.prompt for row in chunk], adapter=adapter, sampling=sampling, **seeing)
            fresh = [[completion.text, completion.finish_reason == "stop"] for completion in completions]
            write_atomically(path, canonical_json(fresh))
            generated += len(chunk)
        answers += [(text, stopped) for text, stopped in json.loads(path.read_bytes())]
        pace = (time.monotonic() - started) / max(generated, 1)
        progress(len(answers), pace * (len(rows) - len(answers)))
    return [Answered(row.truth, text, stopped, row.group) for row, (text, stopped) in zip(rows, answers, strict=True)]


def tell(job: Job, phase: str, subject: str, rows: int, before: int = 0) -> Progress:
    """Progress of one subject as events of a job, which also ends the job when it was asked to stop.

    Args:
        job: The job.
        phase: `evaluate` or `gate`.
        subject: Bundle digest, or `base`.
        rows: How many rows there are.
        before: Rows answered before by other subjects of this job; makes the events' steps unique.
    """

    def report(done: int, seconds_left: float) -> None:
        body = {"phase": phase, "subject": subject, "done": done, "rows": rows, "seconds_left": round(seconds_left, 1)}
        job.emit("progress", before + done, **body)
        job.check()

    return report
