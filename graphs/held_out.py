"""Measure a recipe on held-out rows, beside its models alone, routing to one, a vote and the oracle.

    python -m graphs.held_out --spec spec.json

`spec.json` is a `MixtureSpec`; the result is a `MixtureResult`. The service has to run: the models are asked as they
are served. Everything is tried once on an open row before the look at the locked ones is taken; a killed job goes on
with the answers it has, and takes no second look.
"""

import asyncio
from typing import Any

from evals.exam import lock_exam
from evals.held_out import Question, Questions, locked_questions, open_questions
from evals.mixture import MOST_FAILED, Outcome, table
from evals.rows import split_rows
from graphs.answering import Answers
from graphs.outcomes import Panel, outcome, singles
from graphs.questions import ask_all, forget
from graphs.recipes import proposers
from graphs.served import Served, engine_url, loaded, rehearsal, token_lengths
from graphs.steady import Steady, steadily
from moatelier.contracts import MixtureResult, MixtureSpec
from moatelier.errors import DataError, UpstreamError
from moatelier.job import Job, main
from store import datasets


def work(spec: dict[str, Any], job: Job) -> dict[str, Any]:
    """Measure as a `MixtureSpec` says and return the `MixtureResult`.

    Raises:
        LooksExhausted: The locked rows have had all their looks.
        Conflict: The recipe was changed since.
        NotFound: Recipe, dataset or locked rows are missing.
        UpstreamError: The engine, or too much of the recipe, does not answer.
        DataError: No row is left that no adapter of the recipe was trained on, or the exam is none.
        Cancelled: The job was asked to stop; the answers so far stay in its folder.
    """
    asked = MixtureSpec.model_validate(spec)
    result = asyncio.run(measure(asked, job))
    if asked.split == "test":
        forget(job)
    return result.model_dump(mode="json")


async def measure(spec: MixtureSpec, job: Job) -> MixtureResult:
    """Ask and score; raises as `work` does."""
    mixture, lengths = loaded(spec.project, spec.name, spec.recipe), token_lengths()
    if spec.exam:
        locked = lock_exam(spec.project, spec.task, spec.exam, job.check)
        spec = spec.model_copy(update={"datasets": (locked,), "exam": None})

    async def ask(answers: Answers, engine: Steady) -> tuple[Questions, list[Any]]:
        models = Served(spec.project, mixture, answers, proposers(spec.project, mixture.recipe))
        await models.rehearse(_open_row(spec), singles(mixture.recipe, models.label))
        if spec.split == "test":
            asked = locked_questions(spec, lengths)
        else:
            asked = open_questions(spec.datasets, spec.split, spec.seen, spec.rows, lengths)
        panel = Panel(mixture.recipe, models, models.label)

        async def believable(question: Question) -> Any:
            answered = await panel.ask(question)
            if outcome(question, answered).flawed:
                await engine.need()
            return answered

        key = [spec.recipe, models.routes]
        return asked, await ask_all(asked.questions, believable, key=key, job=job, phase="mixture")

    asked, given = await steadily(engine_url(), job, ask)
    rows = [outcome(question, answered) for question, answered in zip(asked.questions, given, strict=True)]
    _need_answers(rows)
    return _result(spec, asked, rows)


def _result(spec: MixtureSpec, asked: Questions, rows: list[Outcome]) -> MixtureResult:
    return MixtureResult(table=table(rows, seed=spec.seed), looks=asked.looks, left_out=asked.left_out)


def _open_row(spec: MixtureSpec) -> Any:
    """One select row, or dev row, of the datasets: whoever answers these answers the locked ones."""
    card = datasets.get_card(spec.datasets[0])
    for split in ("select", "dev"):
        try:
            return rehearsal(split_rows(card, split))
        except DataError:
            continue
    return rehearsal([])


def _need_answers(rows: list[Outcome]) -> None:
    failed = [row.recipe.error for row in rows if row.recipe.error]
    if len(failed) > MOST_FAILED * len(rows):
        raise UpstreamError(
            f"The recipe failed on {len(failed)} of {len(rows)} rows ({failed[0]}): that says nothing of its worth.",
            remedy="See that the engine and the upstreams answer, and evaluate again.",
        )


if __name__ == "__main__":
    main("graphs.held_out", work)
