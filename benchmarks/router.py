"""The router on real text with the domain hidden, and the time of one choice.

    MOATELIER_BENCH_DATA=../shared/data python -m benchmarks.router            # the figures, on test rows
    MOATELIER_BENCH_DATA=../shared/data python -m benchmarks.router --choose   # what the constants were chosen by

Reads `banking77/{train,test}.csv` (columns text, category) from that folder, in two settings: six narrow domains of 35
intents, and all 77 intents in six groups. Each domain is an adapter by its profile alone: no language model is needed,
and its own adapter counts as right, so the share of rows that come home is the share of the domain oracle.

`--choose` cross-validates prototypes a label and the assumed share of strangers on the training file and never opens
the other. The figures are of the half of the test rows whose text has an odd SHA-256, by profiles from 80 % of the
training rows and a calibration on 10 %; the other half is left for whoever has to judge the next choice. Needs the
pulled embedding model.
"""

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.domains import ALL, NARROW, Rows, read, rows_of
from evals import router_card
from evals.bootstrap import bootstrap
from evals.statistics import clopper_pearson
from moatelier.contracts import HeldOut, Interval, RouterProfile
from moatelier.settings import settings
from modalities import catalogue
from modalities.embedding import embed
from serving.calibration import OUT_SHARE, auroc, expected_error, fit, probabilities
from serving.general import SENTENCES
from serving.prototypes import A_LABEL, Vectors, pack, prototype_of, unit
from serving.router import Router

SETTINGS = {"six narrow domains, 35 intents": NARROW, "all 77 intents in six groups": ALL}
ADAPTERS, PROTOTYPES, CHOICES, ROUNDS = 1000, 32, 400, 5
FOLDS, DRAWS = 5, 1000
console = Console()


def prototypes(rows: Rows, a_label: int) -> Vectors:
    """One domain's prototypes, unit length."""
    owners = prototype_of(rows.vectors, rows.intents.tolist(), a_label=a_label)
    return unit(np.stack([rows.vectors[owners == place].sum(axis=0) for place in range(int(owners.max()) + 1)]))


def profile(name: str, points: Vectors) -> RouterProfile:
    """A profile without an adapter behind it."""
    return RouterProfile(
        adapter=name,
        embedding=catalogue.embedding(),
        embedding_digest=catalogue.base_digest(catalogue.embedding()),
        modality="text",
        kind="classification",
        labels=(),
        rows=len(points),
        dims=points.shape[1],
        prototypes=pack(points),
        counts=(1,) * len(points),
        nearness=0.0,
        spread=0.0,
    )


def quality(train: Rows, test: Rows, domains: dict[str, str], strangers: Vectors) -> dict[str, Any]:
    """Route each test row once, by the product's own calibration."""
    share = np.random.default_rng(0).permutation(len(train.owners)) / len(train.owners)
    profiles, held_out = [], {}
    for place, domain in enumerate(sorted(domains)):
        mine = train.owners == place
        dev = train.at(mine & (share >= 0.8) & (share < 0.9)).vectors
        profiles.append(profile(domain, prototypes(train.at(mine & (share < 0.8)), A_LABEL)))
        held_out[domain] = HeldOut(adapter=domain, vectors=pack(dev), right=(True,) * len(dev))
    calibration = router_card.calibrate(router_card.trial(profiles, held_out, strangers))
    router = Router(profiles, calibration)
    scores = router.scores(test.vectors)
    chances, near = probabilities(scores, calibration), without_own(scores, test.owners)
    chosen = chances.argmax(axis=1)
    return {
        "rows": len(chosen),
        "router": rate(chosen == test.owners),
        "never abstaining": rate(scores.argmax(axis=1) == test.owners),
        "best single": rate(test.owners == np.bincount(test.owners).argmax()),
        "random": 1 / len(domains),
        "to the base": rate(chosen == len(domains)),
        "to the base, its own adapter missing": rate(probabilities(near, calibration).argmax(axis=1) == len(domains)),
        "AUROC against general sentences": auroc(scores.max(axis=1), router.scores(strangers).max(axis=1)),
        "AUROC against rows whose adapter is missing": auroc(scores.max(axis=1), near.max(axis=1)),
        "calibration error": calibration_error(chances.max(axis=1), chosen == test.owners),
    }


def without_own(scores: Any, owners: Any) -> Any:
    others = np.array(scores)
    others[np.arange(len(others)), owners] = -1.0
    return others


def rate(right: Any) -> Interval:
    return clopper_pearson(int(right.sum()), len(right))


def calibration_error(confidence: Any, right: Any) -> Interval:
    """With the 95 % interval of a bootstrap over rows. The error is never below 0, so its estimate leans upwards."""

    def error(weights: Any) -> Any:
        return np.array([expected_error(confidence, right, drawn) for drawn in weights])

    found = bootstrap(error, len(right), draws=DRAWS, seed=0)
    low, high = found.percentile(0.025), found.percentile(0.975)
    return Interval(point=found.point, low=low, high=high, claim_low=low, method="percentile")


def choose(train: list[tuple[str, str]], vectors: Vectors, strangers: Vectors) -> None:
    """Cross-validate the constants on the training file and print what came out."""
    tried = [(count, OUT_SHARE) for count in (1, 2, 4, 6, 8)] + [(A_LABEL, share) for share in (0.02, 0.05, 0.2)]
    for title, domains in SETTINGS.items():
        names = ("a label", "strangers", "come home", "never abstaining", "to the base", "strangers to the base")
        table = Table(*names, title=f"{title}, {FOLDS} folds of the training rows", title_justify="left")
        rows = rows_of(train, vectors, domains)
        for a_label, out_share in tried:
            found = np.mean(list(folds(rows, len(domains), strangers, a_label, out_share)), axis=0)
            table.add_row(str(a_label), str(out_share), *(f"{100 * share:.2f} %" for share in found))
        console.print(table)


def folds(rows: Rows, domains: int, strangers: Vectors, a_label: int, out_share: float) -> Iterator[list[float]]:
    """For each fold, by the others: the shares of `choose`'s table; strangers are rows whose own adapter is missing."""
    random = np.random.default_rng(0)
    fold, dev = random.permutation(len(rows.owners)) % FOLDS, random.permutation(len(rows.owners)) % 9 == 0
    for number in range(FOLDS):
        made = [
            prototypes(rows.at((fold != number) & ~dev & (rows.owners == place)), a_label) for place in range(domains)
        ]

        def scores(vectors: Vectors, made: list[Vectors] = made) -> Any:
            return np.stack([(vectors @ points.T).max(axis=1) for points in made], axis=1)

        known, fresh = rows.at((fold != number) & dev), rows.at(fold == number)
        near = without_own(scores(known.vectors), known.owners).max(axis=1)
        far = scores(strangers).max(axis=1)
        calibration = fit(scores(known.vectors), known.owners, far, near, out_share=out_share)
        found = scores(fresh.vectors)
        chosen = probabilities(found, calibration).argmax(axis=1)
        astray = probabilities(without_own(found, fresh.owners), calibration).argmax(axis=1)
        home = found.argmax(axis=1) == fresh.owners
        yield [float(part.mean()) for part in (chosen == fresh.owners, home, chosen == domains, astray == domains)]


def latency() -> dict[str, float]:
    """Milliseconds of one choice over 1,000 adapters, without the embedding.

    On the clock in the quietest of five rounds and in the loudest, since whatever else the machine does takes whole
    time slices of 3 to 12 ms away from some choices; and of the processor, which that leaves alone.
    """
    random = np.random.default_rng(0)
    dims = 384
    router = Router([profile(f"{n:064x}", unit(random.normal(size=(PROTOTYPES, dims)))) for n in range(ADAPTERS)])
    clock, processor = np.zeros((ROUNDS, CHOICES)), np.zeros((ROUNDS, CHOICES))
    for place, vector in enumerate(unit(random.normal(size=(ROUNDS * CHOICES, dims))).tolist()):
        begun, worked = time.perf_counter(), time.thread_time()
        router.route(vector)
        processor.flat[place] = 1000 * (time.thread_time() - worked)
        clock.flat[place] = 1000 * (time.perf_counter() - begun)
    late = np.quantile(clock, 0.95, axis=1)
    return {
        "p50": float(np.median(clock)),
        "p95": float(late.min()),
        "p95 of the loudest round": float(late.max()),
        "processor p95": float(np.quantile(processor, 0.95)),
    }


def shown(value: Any) -> str:
    if isinstance(value, Interval):
        return f"{value.point:.4f}  ({value.low:.4f} to {value.high:.4f})"
    return str(value) if isinstance(value, int) else f"{value:.4f}"


def main() -> None:
    parser = argparse.ArgumentParser(description="The router on banking77.")
    parser.add_argument("--choose", action="store_true", help="cross-validate the constants on the training file only")
    chooses = parser.parse_args().choose
    folder = (settings().bench_data or Path()) / "banking77"
    if not (folder / "test.csv").is_file():
        raise SystemExit("Set MOATELIER_BENCH_DATA to a folder with banking77/train.csv and banking77/test.csv.")
    train, strangers = read(folder / "train.csv"), embed(SENTENCES)
    vectors = embed([text for text, _ in train])
    if chooses:
        choose(train, vectors, strangers)
        return
    test = read(folder / "test.csv", reported=True)
    asked = embed([text for text, _ in test])
    found = {}
    for title, domains in SETTINGS.items():
        figures = quality(rows_of(train, vectors, domains), rows_of(test, asked, domains), domains, strangers)
        table = Table("", "", title=f"{title}, domain hidden; 95 % intervals", title_justify="left")
        for name, value in figures.items():
            table.add_row(name, shown(value))
        console.print(table)
        found[title] = figures
    took = latency()
    told = ", ".join(f"{name} {value:.2f}" for name, value in took.items())
    console.print(f"a choice over {ADAPTERS} adapters of {PROTOTYPES} prototypes, in ms: {told}")
    print(json.dumps({name: round(value, 4) for name, value in last(*found.values(), took).items()}))


def last(narrow: dict[str, Any], every: dict[str, Any], took: dict[str, float]) -> dict[str, float]:
    """The figures of the last line."""
    return {
        "router_p95_ms": took["p95"],
        "router_p95_cpu_ms": took["processor p95"],
        "router_vs_domain_oracle": narrow["router"].point,
        "router_vs_domain_oracle_low": narrow["router"].low,
        "router_ece": narrow["calibration error"].point,
        "router_vs_domain_oracle_77": every["router"].point,
        "router_vs_domain_oracle_77_low": every["router"].low,
        "router_ece_77": every["calibration error"].point,
    }


if __name__ == "__main__":
    main()
