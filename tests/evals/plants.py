"""Small worlds with one fault planted in each, in which a tiny model is really trained and really scored.

The base has been to school: it knows four families of words by code names, and eight facts. A task gives the
families other names, which is soon learnt; the facts are what can be forgotten.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agents.trial import Evidence, Trial
from evals import run, signs
from moatelier.contracts import (
    Columns,
    CurationReport,
    DatasetCard,
    EvalReport,
    EvalSpec,
    Kind,
    Sourced,
    SplitInfo,
    SplitName,
    Symptom,
    TaskPlan,
    TrainResult,
    TrainSpec,
)
from moatelier.job import Job
from modalities.text import data
from modalities.text.labels import find_suspicious
from store import artifacts
from tests.agents.scenes import planned
from training import run as training

FAMILIES = (
    ("order", "card", "refund"),
    ("parcel", "broken", "cancel"),
    ("system", "user", "name"),
    ("category", "come", "where"),
)
CODES = ("one", "two", "three", "four")
LABELS = ("cat", "dog", "cow", "hen")
FILLERS = ("is", "my", "please", "the", "has", "not")
FORMS = ("the", "please", "my", "has the")
SYSTEM = "Sort."
COUNTS = dict.fromkeys(
    ["exact_duplicates", "near_duplicate_clusters", "near_duplicates_of_test", "conflicting_labels"], 0
)
SIZES: Mapping[SplitName, int] = {"train": 128, "dev": 64, "select": 64}
PLAN = planned("accuracy of 99%")
PAIRS = PLAN.model_copy(
    update={
        "kind": Sourced(value="preference", source="user", confidence=1, reason="planted"),
        "goal": PLAN.goal.model_copy(
            update={"value": PLAN.goal.value.model_copy(update={"metric": "preference_accuracy"})}
        ),
    }
)
DEFAULTS: dict[str, Any] = {
    "method": "full",
    "base": "tiny",
    "suffix": "planted",
    "rank": 1,
    "alpha": 1.0,
    "layers": "all",
    "learning_rate": 3e-3,
    "epochs": 8.0,
    "batch_rows": 16,
    "precision": "fp32",
    "checkpoint_every": 1000,
}
"""A training in which the plain task is learnt."""
Planted = tuple[list[Trial], TaskPlan]


def words(chance: random.Random, family: int) -> str:
    """A sentence with one word of a family in it."""
    said = [chance.choice(FILLERS) for _ in range(4)]
    said[chance.randrange(1, 4)] = chance.choice(FAMILIES[family])
    return " ".join(said)


def facts() -> list[tuple[str, str]]:
    """What the base knows: a question and its answer."""
    return [(f"{form} {n}", LABELS[(3 * n + n // 3) % 4]) for n in range(8) for form in FORMS]


def school() -> list[list[dict[str, str]]]:
    """Conversations that the base has seen."""
    chance = random.Random(0)
    pairs = [(words(chance, n % 4), CODES[n % 4]) for n in range(256)] + facts() * 4
    return [[{"role": "user", "content": asked}, {"role": "assistant", "content": told}] for asked, told in pairs]


@dataclass
class World:
    """One seed's data and trainings, under a data directory of its own."""

    home: Path
    seed: int
    trained: int = 0

    def __post_init__(self) -> None:
        self.chance = random.Random(self.seed)

    def rows(self, split: SplitName, label: Callable[[int, str], str], count: int) -> list[data.Row]:
        """Rows whose expected answer is made of the family's number and the words; families in turns."""
        made = []
        for number in range(count):
            asked = words(self.chance, number % 4)
            told = label(number % 4, asked)
            made.append(
                data.Row(len(made) + 1 + 1000 * ("train", "dev", "select").index(split), _turns(asked, told), told)
            )
        return made

    def dataset(
        self,
        label: Callable[[int, str], str],
        *,
        taught: Callable[[int, str], str] | None = None,
        train: int = SIZES["train"],
        replayed: bool = False,
    ) -> DatasetCard:
        """A curated dataset.

        `taught` gives the training rows other answers than dev and select rows expect; `replayed` puts what the base
        knows among them.
        """
        parts = {
            split: self.rows(split, taught or label if split == "train" else label, train if split == "train" else size)
            for split, size in SIZES.items()
        }
        if replayed:
            known = [data.Row(5000 + n, _turns(asked, told, ""), told) for n, (asked, told) in enumerate(facts())]
            parts["train"] = [*parts["train"], *known]
        return card(parts)

    def trial(self, made_of: DatasetCard, *, retention: bool = False, **changes: Any) -> Trial:
        """Train and score."""
        fields = {"dataset": artifacts.put_json(made_of), "seed": self.seed} | DEFAULTS
        return self.again(TrainSpec.model_validate(fields | changes), retention=retention)

    def again(self, spec: TrainSpec, *, retention: bool = False) -> Trial:
        """Train a spec and score it; with `retention` also on what the base knew."""
        self.trained += 1
        name = f"{self.seed}-{self.trained}"
        result = TrainResult.model_validate(training.work(spec.model_dump(mode="json"), self._job(f"train-{name}")))
        keys = {step: f"{step}-{name}" for step in ("train", "dev", "select")}
        dev, select = (self._scored(spec.dataset, result.bundle, split, keys[split]) for split in ("dev", "select"))
        kept = self._remembers(result.bundle, name) if retention else None
        return Trial(spec=spec, result=result, dev=dev, select=select, jobs=keys, retention=kept)

    def _remembers(self, bundle: str, name: str) -> tuple[EvalReport, EvalReport]:
        known = artifacts.put_json(remembered())
        base, own = (self._scored(known, of, "dev", f"kept-{name}-{of}") for of in (None, bundle))
        return base, own

    def _scored(self, digest: str, bundle: str | None, split: Any, name: str) -> EvalReport:
        return run.evaluate(EvalSpec(dataset=digest, base="tiny", bundle=bundle, split=split), self._job(name))

    def _job(self, name: str) -> Job:
        return Job(self.home / "jobs" / name, quiet=True)


def _turns(asked: str, told: str, system: str = SYSTEM) -> tuple[dict[str, str], ...]:
    first = ({"role": "system", "content": system},) if system else ()
    return (*first, {"role": "user", "content": asked}, {"role": "assistant", "content": told})


def card(
    parts: Mapping[SplitName, Sequence[data.Row]], kind: Kind = "classification", labels: Sequence[str] = LABELS
) -> DatasetCard:
    """A card of these rows."""
    splits = {
        split: SplitInfo(rows=len(rows), artifact=artifacts.put_bytes(data.write_rows(rows)))
        for split, rows in parts.items()
    }
    return DatasetCard(
        name="planted",
        source="0" * 64,
        test_source=None,
        licence="Apache-2.0",
        modality="text",
        kind=kind,
        columns=Columns(input="message", target="intent"),
        labels=tuple(labels),
        splits=splits,
        locked="0" * 64,
        report=CurationReport(rows_read=256, rows_kept=256, **COUNTS),
    )


def remembered() -> DatasetCard:
    """What the base knew before, as a dataset with dev rows alone."""
    rows = [data.Row(n + 1, _turns(asked, told, ""), told) for n, (asked, told) in enumerate(facts())]
    return card({"dev": rows}, labels=LABELS)


def looked(trial: Trial) -> Evidence:
    """What a graph's node would hand to the evaluator."""
    made_of = DatasetCard.model_validate(artifacts.get_json(trial.spec.dataset))
    return Evidence(rows=signs.read(trial.dev, made_of), card=made_of, malformed=signs.malformed(made_of))


def suspected(made_of: DatasetCard) -> DatasetCard:
    """The card with the labels that the curator's cross-validated model doubts."""
    rows = [
        row
        for info in made_of.splits.values()
        if info.artifact
        for row in data.parse_rows(artifacts.get_bytes(info.artifact))
    ]
    found = find_suspicious(
        [row.number for row in rows], [row.prompt for row in rows], [str(row.label) for row in rows]
    )
    return made_of.model_copy(update={"report": made_of.report.model_copy(update={"suspicious": found})})


# ---------------------------------------------------------------- the plants


def _plain(family: int, _: str) -> str:
    return LABELS[family]


def healthy(world: World) -> Planted:
    """Nothing planted: enough rows, enough steps, and what the base knows is replayed."""
    return [world.trial(world.dataset(_plain, replayed=True), retention=True)], PLAN


def data_fault(world: World) -> Planted:
    """A quarter of all labels are drawn at random."""

    def noisy(family: int, _: str) -> str:
        return LABELS[family] if world.chance.random() > 0.3 else world.chance.choice(LABELS)

    return [world.trial(suspected(world.dataset(noisy, train=256)), epochs=4.0)], PLAN


def underfit(world: World) -> Planted:
    """A handful of steps at a low rate."""
    return [world.trial(world.dataset(_plain), epochs=1.0, learning_rate=3e-4)], PLAN


def overfit(world: World) -> Planted:
    """A dozen rows, again and again."""
    return [world.trial(world.dataset(_plain, train=12), epochs=60.0, batch_rows=12)], PLAN


def divergence(world: World) -> Planted:
    """A rate far too high."""
    return [world.trial(world.dataset(_plain), learning_rate=0.3)], PLAN


def class_confusion(world: World) -> Planted:
    """Two families have either of two labels by the toss of a coin."""

    def either(family: int, _: str) -> str:
        return world.chance.choice(LABELS[:2]) if family < 2 else LABELS[family]

    return [world.trial(world.dataset(either, train=256), epochs=4.0)], PLAN


def format_errors(world: World) -> Planted:
    """Where somebody says please, the training rows answer with an exclamation mark."""

    def loud(family: int, asked: str) -> str:
        return LABELS[family] + ("!" if "please" in asked else "")

    return [world.trial(world.dataset(_plain, taught=loud), epochs=12.0)], PLAN


def never_stops(world: World) -> Planted:
    """The training rows say their label over and over."""

    def endless(family: int, _: str) -> str:
        return " ".join([LABELS[family]] * 6)

    return [world.trial(world.dataset(_plain, taught=endless))], PLAN


def forgetting(world: World) -> Planted:
    """The task is learnt, and nothing is done for what the base knows."""
    return [world.trial(world.dataset(_plain), retention=True)], PLAN


def preference_gap(world: World) -> Planted:
    """What is chosen of each pair is the toss of a coin."""

    def pairs(split: SplitName, count: int) -> list[data.Row]:
        made = []
        for row in world.rows(split, _plain, count):
            chosen, rejected = world.chance.sample(LABELS, 2)
            messages = (*row.messages[:-1], {"role": "assistant", "content": chosen})
            made.append(data.Row(row.number, messages, None, rejected=rejected))
        return made

    counts: Mapping[SplitName, int] = {"train": 32, "dev": 64, "select": 64}
    made_of = card({split: pairs(split, count) for split, count in counts.items()}, "preference", ())
    told = {"method": "dpo", "rank": 8, "alpha": 16.0, "learning_rate": 1e-2, "epochs": 30.0}
    return [world.trial(made_of, **told)], PAIRS


def plateau(world: World) -> Planted:
    """A tenth of the words of a family are of another one; a second trial changes nothing but the seed."""

    def mostly(family: int, _: str) -> str:
        return LABELS[family] if world.chance.random() > 0.05 else world.chance.choice(LABELS)

    made_of = world.dataset(mostly)
    return [world.trial(made_of), world.trial(made_of, seed=world.seed + 100)], PLAN


PLANTS: Mapping[Symptom, Callable[[World], Planted]] = {
    "healthy": healthy,
    "data_fault": data_fault,
    "underfit": underfit,
    "overfit": overfit,
    "divergence": divergence,
    "class_confusion": class_confusion,
    "format_errors": format_errors,
    "never_stops": never_stops,
    "forgetting": forgetting,
    "preference_gap": preference_gap,
    "plateau": plateau,
}
FIRST_ACTIONS: Mapping[Symptom, str] = {
    "healthy": "half_more_epochs",
    "data_fault": "without_doubted_rows",
    "underfit": "more_epochs",
    "overfit": "epochs_to_the_minimum",
    "divergence": "lower_rate",
    "class_confusion": "half_more_epochs",
    "format_errors": "without_malformed_rows",
    "never_stops": "more_epochs",
    "forgetting": "fewer_epochs",
    "preference_gap": "held_more",
    "plateau": "more_rank",
}
"""What the trainer does about each first."""
MENDED: tuple[Symptom, ...] = ("underfit", "format_errors", "forgetting")
"""Faults that this can mend at once."""
