"""Start what takes long about a recipe: its evaluation, and the rows for its aggregator. Needs no graph library.

Whose rows are asked follows from the recipe: those of the datasets that its proposers were tuned on, or those that the
person names or brings. What any of its adapters was made with is never asked.
"""

from collections.abc import Iterable, Sequence
from typing import Final, Literal

from graphs import jobs
from moatelier.contracts import CandidatesSpec, MixtureSpec, Recipe, Voice
from moatelier.errors import InvalidRequest, NotFound
from moatelier.ids import digest_json, new_id
from serving import roster
from store import adapters, datasets, recipes, tasks

GRAPH: Final = "mixture"
MIXTURE, CANDIDATES = "mixture", "candidates"
"""The two jobs of that graph."""


def evaluate(
    project: str,
    name: str,
    *,
    named: Sequence[str] = (),
    exam: str | None = None,
    split: Literal["select", "test"] = "test",
    rows: int | None = None,
) -> tasks.Task:
    """Start the evaluation of a recipe, as a task.

    Args:
        project: Whose recipe it is.
        name: Its name.
        named: Tasks, adapters or datasets whose rows are asked; default: those of its proposers.
        exam: Id of an uploaded file of questions to be asked instead.
        split: Locked rows, which decide, or select rows, which only compare.
        rows: At most so many.

    Raises:
        NotFound: There is no such recipe, task, adapter, dataset or file.
        InvalidRequest: Datasets and an exam are named, or neither and the recipe has no adapter that tells whose rows.
    """
    task, recipe = new_id("task"), recipes.get(project, name)
    if exam is not None and named:
        raise InvalidRequest(
            "An exam and datasets are named.", where="exam", remedy="Evaluate on one of them, then on the other."
        )
    tuned_on = _tuned_on(project, proposers(project, recipe.sealed))
    asked = () if exam is not None else _asked(project, recipe.sealed, named, tuned_on)
    aggregating = _digests([recipe.sealed.aggregator]) if isinstance(recipe.sealed.aggregator, Voice) else []
    seen = _once([*tuned_on, *_tuned_on(project, aggregating)])
    spec = MixtureSpec(
        project=project,
        task=task,
        name=recipe.name,
        recipe=recipe.digest,
        datasets=asked,
        exam=None if exam is None else datasets.get_file(project, exam).id,
        seen=seen,
        split=split,
        rows=rows,
    )
    request = f"Evaluate moa/{recipe.name} on {'locked' if split == 'test' else 'select'} rows"
    return _start(project, task, MIXTURE, spec, request, spec.exam or "")


def make_candidates(project: str, name: str, *, named: Sequence[str] = (), rows: int | None = None) -> tasks.Task:
    """Start making the rows for a recipe's aggregator, as a task; arguments and errors as `evaluate`."""
    task, recipe = new_id("task"), recipes.get(project, name)
    # What an aggregator was made of before may teach the next one: only what the proposers were trained on is spoilt.
    seen = _once(_tuned_on(project, proposers(project, recipe.sealed)))
    asked = _asked(project, recipe.sealed, named, seen)
    spec = CandidatesSpec(
        project=project, task=task, name=recipe.name, recipe=recipe.digest, datasets=asked, seen=seen, rows=rows
    )
    return _start(project, task, CANDIDATES, spec, f"Make the rows for the aggregator of moa/{recipe.name}")


def _start(
    project: str, task: str, job: str, spec: MixtureSpec | CandidatesSpec, request: str, file: str = ""
) -> tasks.Task:
    """Write the task, its thread and its run down, then queue the run: a sweeper finds what a crash left unqueued."""
    thread, run = f"{task}-thread", f"run-{digest_json([task, 'start'])[:12]}"
    tasks.create_thread(project, id=thread, graph=GRAPH, task=task)
    tasks.create_task(
        project, id=task, thread=thread, conversation=thread, request=request, train_file=file, test_file=None
    )
    tasks.update_task(task, name=spec.name)
    tasks.create_run(project, id=run, thread=thread, input={"job": job, "spec": spec.model_dump(mode="json")})
    jobs.submit_run(run)
    return tasks.find_task(task)


def _asked(project: str, recipe: Recipe, named: Sequence[str], tuned_on: Sequence[str]) -> tuple[str, ...]:
    """Digests of the datasets to be asked: those that are named, or that the proposers were tuned on."""
    asked = [_dataset(project, name) for name in named] if named else tuned_on
    if not asked:
        raise InvalidRequest(
            "The recipe names no adapter, so nothing says whose rows it shall be asked.",
            where=f"moa/{recipe.name}",
            remedy="Name a task or an adapter whose rows to ask, `--dataset TASK`, or bring an exam: `--exam FILE`.",
        )
    return _once(asked)


def proposers(project: str, recipe: Recipe, depth: int = 0) -> list[str]:
    """Digests of the adapters that may propose: named, on the roster of `auto`, or within a recipe that it asks."""
    found: list[str] = []
    for proposer in (proposer for layer in recipe.layers for proposer in layer.proposers):
        found += _digests([proposer])
        if proposer.auto:
            found += [entry.adapter for entry in roster.on_roster(roster.entries(project))]
        if proposer.other and depth < MOST_DEPTH:
            inner = recipes.get(project, proposer.other[0]).sealed
            aggregating = [inner.aggregator] if isinstance(inner.aggregator, Voice) else []
            found += [*proposers(project, inner, depth + 1), *_digests(aggregating)]
    return list(_once(found))


MOST_DEPTH = 8
"""Recipes within recipes; a circle is refused when a recipe is added, this only keeps us from trusting it."""


def _digests(voices: Iterable[Voice]) -> list[str]:
    return [voice.adapter for voice in voices if voice.adapter is not None]


def _tuned_on(project: str, digests: Iterable[str]) -> list[str]:
    found = []
    for digest in digests:
        try:
            found.append(adapters.get(project, digest).manifest.dataset)
        except NotFound:  # `auto` may remember an adapter that is gone
            continue
    return found


def _dataset(project: str, name: str) -> str:
    """The dataset that a task curated, an adapter was tuned on, or that has this digest.

    Raises:
        NotFound: It is none of them.
    """
    if name in (cards := datasets.list_cards(project)):
        return name
    if made := datasets.list_cards(project, task=name):
        return made[0]
    try:
        found = adapters.get(project, name).manifest.dataset
    except NotFound as error:
        raise NotFound("No task, adapter or dataset has this name.", where=name, remedy=error.remedy) from error
    if found not in cards:
        raise NotFound("The dataset of this adapter is not in this project.", where=name)
    return found


def _once(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(names))
