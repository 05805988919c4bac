"""Make the rows for a recipe's aggregator: dev rows with what its proposers answer to them.

    python -m graphs.candidates --spec spec.json

`spec.json` is a `CandidatesSpec`; the result is a `CandidatesResult`. Dev rows only: on train rows the proposers are
better than they will ever be again, select rows choose and locked rows decide. The prompts are made by the very code
that will put the candidates before the aggregator when it serves.
"""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from evals.held_out import Question, open_questions
from evals.scorers import plain
from graphs.answering import Answers
from graphs.outcomes import singles
from graphs.questions import ask_all
from graphs.recipes import proposers
from graphs.served import Served, engine_url, loaded, token_lengths
from graphs.steady import Steady, steadily
from moatelier.contracts import CandidatesResult, CandidatesSpec, Recipe
from moatelier.contracts.recipes import Synthesis, Vote
from moatelier.errors import DataError, MoatelierError, UpstreamError
from moatelier.ids import canonical_json
from moatelier.job import Job, main
from serving import moa
from serving.mixtures import Mixture
from serving.prompts import Messages, with_references
from store import artifacts

LEAST_ROWS = 20
"""An aggregator of fewer rows would learn them by heart."""


def work(spec: dict[str, Any], job: Job) -> dict[str, Any]:
    """Make the rows and return the `CandidatesResult`.

    Raises:
        Conflict: The recipe was changed since.
        NotFound: Recipe or dataset are missing.
        UpstreamError: The engine, or too many proposers, do not answer.
        DataError: There are too few dev rows.
        Cancelled: The job was asked to stop; the answers so far stay in its folder.
    """
    return asyncio.run(make(CandidatesSpec.model_validate(spec), job)).model_dump(mode="json")


async def make(spec: CandidatesSpec, job: Job) -> CandidatesResult:
    """Ask the proposers; raises as `work` does."""
    whole = loaded(spec.project, spec.name, spec.recipe)
    mixture = Mixture(whole.stored.model_copy(update={"sealed": proposing(whole.recipe)}), whole.targets, whole.others)
    asked = open_questions(spec.datasets, "dev", spec.seen, spec.rows, token_lengths())

    async def propose(answers: Answers, engine: Steady) -> list[Any]:
        models = Served(spec.project, mixture, answers, proposers(spec.project, whole.recipe))
        await models.rehearse(asked.questions[0], singles(whole.recipe, models.label))

        async def ask(question: Question) -> Any:
            try:
                trace = await models.recipe(question)
            except MoatelierError:  # nobody proposed anything: a row that teaches nothing
                await engine.need()
                return []
            if any(one.error for one in trace.proposals):
                await engine.need()
            plan = moa.planned(mixture, None, {}, "full")
            return [one.text for one in plan.handed(len(plan.stages) - 1, trace.proposals)]

        return await ask_all(asked.questions, ask, key=spec.recipe, job=job, phase="candidates")

    given = await steadily(engine_url(), job, propose)
    return _result(asked.questions, given, asked.left_out, _chars(whole.recipe))


def proposing(recipe: Recipe) -> Recipe:
    """The recipe up to its aggregator, all of it on every row: a vote costs nothing, and its result is not used."""
    layers = tuple(layer.model_copy(update={"exit_at": None}) for layer in recipe.layers)
    return recipe.model_copy(update={"layers": layers, "aggregator": Vote(kind="vote", prior=0.0), "gate": None})


def _chars(recipe: Recipe) -> int:
    default = int(Synthesis.model_fields["reference_chars"].default)
    return recipe.aggregator.reference_chars if isinstance(recipe.aggregator, Synthesis) else default


def _result(
    questions: Sequence[Question], given: Sequence[Sequence[str]], left_out: int, chars: int
) -> CandidatesResult:
    pairs = [(question, texts) for question, texts in zip(questions, given, strict=True) if texts]
    if len(pairs) < len(questions) / 2:
        raise UpstreamError(
            f"Nobody proposed an answer to {len(questions) - len(pairs)} of {len(questions)} rows.",
            remedy="See that the engine and the upstreams answer, and try again.",
        )
    if len(pairs) < LEAST_ROWS:
        raise DataError(
            f"{len(pairs)} dev rows are too few to train an aggregator on; {LEAST_ROWS} are needed.",
            remedy="Name a dataset with more rows: `--dataset TASK`.",
        )
    lines = [canonical_json(row(question, texts, chars)) + b"\n" for question, texts in pairs]
    solvable = sum(plain(question.truth) in map(plain, texts) for question, texts in pairs)
    return CandidatesResult(
        artifact=artifacts.put_bytes(b"".join(lines)),
        rows=len(pairs),
        left_out=left_out + len(questions) - len(pairs),
        solvable=round(solvable / len(pairs), 6),
    )


def row(question: Question, candidates: Sequence[str], chars: int) -> Mapping[str, Any]:
    """One line of the file. The row that it is made of is its group, so that no split and no trial divides the two."""
    turns: Messages = with_references(question.messages, candidates, chars)
    return {"messages": [*turns, {"role": "assistant", "content": question.truth}], "group": question.id}


if __name__ == "__main__":
    main("graphs.candidates", work)
