"""Quality on questions of seven narrow domains with the domain hidden: what routing and recipes win, and over what.

One adapter a domain, one adapter pooled over all of them at equal rank and steps, and their uniform merge. Every
subject is sent the same prompt, which names neither domain nor label. Each is asked once for every row, and so are the
ensembles and samples that recipes need; the recipes then run through the real graph on what was said
(benchmarks/replies.py). Select rows choose the best single adapter and the best recipe; test rows are only scored.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks import merged, tuning
from benchmarks.asking import Names, say
from benchmarks.mixed_lines import Line, Row, figures, line, shown
from benchmarks.mixed_rows import TOKENS, Parts, Sizes, read
from benchmarks.replies import Given, Key, Ranks, Table, played, together
from evals import routing
from moatelier.contracts import ProfileSource, Recipe, RouterProfile, RoutingSpec
from moatelier.contracts.recipes import read_recipe
from moatelier.job import Job
from moatelier.settings import settings
from modalities import catalogue
from modalities.bundle import bundle_folder
from modalities.embedding import embed
from serving.completions import Said
from serving.engine import Sampling, TextEngine
from serving.router import BASE, Ranked, Router, routed_text
from store import artifacts

TRAINING: dict[str, Any] = {"batch_rows": 8, "epochs": 4.0, "learning_rate": 1e-3}
"""104 steps an adapter: the planner, too, repeats small sets until they give a hundred."""
LIKELIEST, SAMPLES, TEMPERATURE = 3, 5, 0.7
DESK = Path(__file__).parent.parent / "examples" / "recipes" / "desk.yaml"
console = Console(stderr=True)


@dataclass(frozen=True)
class Adapters:
    """Digests of what is compared.

    Attributes:
        singles: Domain -> the adapter that was trained on its rows.
        pooled: Trained on the rows of all.
        mean: The uniform merge of the singles.
    """

    singles: dict[str, str]
    pooled: str
    mean: str


def trained(parts: Mapping[str, Parts], base: str) -> Adapters:
    """Train and merge; all take as many epochs, so the pooled one takes as many steps as the others together."""

    def adapter(name: str, rows: Sequence[tuple[str, str]]) -> str:
        start = time.monotonic()
        digest = tuning.train(tuning.card_of(tuning.rows_of(rows)), base, name, **TRAINING)
        console.print(f"{name}: {len(rows)} rows trained on in {time.monotonic() - start:.0f} s")
        return digest

    singles = {domain: adapter(domain, part.train) for domain, part in parts.items()}
    pooled = adapter("pooled", [row for part in parts.values() for row in part.train])
    return Adapters(singles, pooled, merged.mean(list(singles.values()), "merged"))


def router(parts: Mapping[str, Parts], singles: Mapping[str, str]) -> Router:
    """The router over the domains' adapters, as the routing job makes it of their train and dev rows."""
    build = tuple(
        ProfileSource(
            adapter=singles[domain], dataset=tuning.card_of(tuning.rows_of(part.train), tuning.rows_of(part.dev))
        )
        for domain, part in parts.items()
    )
    spec = RoutingSpec(candidate=build[0].adapter, build=build, embedding=catalogue.embedding())
    made = routing.enter(spec, Job(settings().home / "jobs" / spec.digest[:32], quiet=True))
    profiles = [RouterProfile.model_validate(artifacts.get_json(one.profile)) for one in made.built]
    return Router(profiles, made.card.calibration)


def ranked(known: Router, texts: Sequence[str]) -> dict[str, Ranked]:
    """The router's word on each text."""
    asked = [routed_text([{"role": "user", "content": text}]) for text in texts]
    return {text: known.route(vector) for text, vector in zip(asked, embed(asked), strict=True)}


def answers(engine: TextEngine, made: Adapters, ranks: Mapping[str, Ranked]) -> dict[Key, Said]:
    """What everybody says to every text, alone, together and by chance."""
    said: dict[Key, Said] = {}
    texts = list(ranks)

    def heard(told: str, names: Sequence[Names], sampling: Sampling, choices: int = 1) -> None:
        start = time.monotonic()
        found = say(engine, texts, names, sampling, choices)
        for text, each, answered in zip(texts, names, found, strict=True):
            who = together([name or BASE for name in each])
            for place, one in enumerate(answered):
                said[who, text, None if sampling.greedy else place] = one
        console.print(f"{told}: {len(texts)} rows asked in {time.monotonic() - start:.0f} s")

    greedy = Sampling(TOKENS, logprobs=0)
    for told, name in {"base": None, **made.singles, "pooled": made.pooled, "merged": made.mean}.items():
        heard(told, [[name]] * len(texts), greedy)
    tops = [[one.name for one in ranks[text].top(LIKELIEST)] for text in texts]
    heard("ensembles", tops, greedy)
    drawn = Sampling(TOKENS, temperature=TEMPERATURE, seed=0, logprobs=0)
    heard("samples of the routed", [top[:1] for top in tops], drawn, SAMPLES)
    heard("samples of the pooled", [[made.pooled]] * len(texts), drawn, SAMPLES)
    return said


def recipes(singles: Sequence[str]) -> dict[str, Recipe]:
    """What each line of a recipe is called -> the recipe."""
    likeliest, everybody = [{"auto": LIKELIEST}], [{"adapter": digest} for digest in singles]
    surest = {"kind": "select", "prior": 0, "agreement": 0}
    made: dict[str, tuple[str, list[dict[str, Any]], dict[str, Any]]] = {
        f"auto:{LIKELIEST}, selection": ("select-likeliest", likeliest, {"kind": "select"}),
        "all adapters, selection": ("select-all", everybody, {"kind": "select"}),
        "all adapters, selection without router": ("surest", everybody, surest),
        f"auto:{LIKELIEST}, weighted vote": ("vote", likeliest, {"kind": "vote", "likelihood": 1}),
        f"auto:{LIKELIEST}, lockstep ensemble": ("ensemble", likeliest, {"kind": "ensemble"}),
        f"self-MoA, {SAMPLES} samples of the routed": ("self", [_samples({"auto": 1})], {"kind": "vote"}),
    }
    desk = {f"auto:{LIKELIEST}, vote, gated (desk)": read_recipe(DESK.read_text(encoding="utf-8"))}
    return desk | {told: _recipe(*said) for told, said in made.items()}


def _recipe(name: str, proposers: Sequence[Mapping[str, Any]], aggregator: Mapping[str, Any]) -> Recipe:
    return Recipe.model_validate({"name": name, "layers": [{"proposers": proposers}], "aggregator": aggregator})


def _samples(who: Mapping[str, Any]) -> dict[str, Any]:
    return {**who, "samples": SAMPLES, "temperature": TEMPERATURE}


def lines(
    rows: Sequence[Row], made: Adapters, said: Mapping[Key, Said], ranks: Mapping[str, Ranked]
) -> tuple[dict[str, Line], list[str]]:
    """Every line of the table over select and test rows, and the names of those that are recipes."""

    def alone(whom: Sequence[str]) -> Line:
        found = [said[who, row.text, None] for who, row in zip(whom, rows, strict=True)]
        return line(rows, [Given(one.text, 1, one.completion_tokens) for one in found])

    def mixed(recipe: Recipe) -> Line:
        return line(rows, played(recipe, [row.text for row in rows], Table(said, TEMPERATURE), Ranks(ranks)))

    every = {domain: alone([digest] * len(rows)) for domain, digest in made.singles.items()}
    best = max(every, key=lambda domain: every[domain].chosen(rows))
    tried = recipes(list(made.singles.values()))
    consistent = _recipe("consistent", [_samples({"adapter": made.pooled})], {"kind": "vote", "prior": 0})
    return {
        "base": alone([BASE] * len(rows)),
        "best single adapter": every[best],
        "pooled adapter": alone([made.pooled] * len(rows)),
        "uniform merge": alone([made.mean] * len(rows)),
        "self-consistency": mixed(consistent),
        "auto": alone([ranks[row.text].choice for row in rows]),
        **{told: mixed(recipe) for told, recipe in tried.items()},
        "domain oracle": alone([made.singles[row.domain] for row in rows]),
        "any adapter right": Line.any(list(every.values())),
    }, list(tried)


def trial(folder: Path, base: str, precision: Any, sizes: Sizes) -> dict[str, float]:
    """The whole trial; prints its tables and returns the figures of the last line.

    Args:
        folder: With banking77's train.csv and test.csv.
        base: Catalogue id.
        precision: The engine's.
        sizes: Rows of each domain.
    """
    parts = read(folder, sizes)
    made = trained(parts, base)
    rows = [Row(*row, domain, False) for domain, part in parts.items() for row in part.select]
    rows += [Row(*row, domain, True) for domain, part in parts.items() for row in part.test]
    ranks = ranked(router(parts, made.singles), [row.text for row in rows])
    engine = TextEngine(base, precision)
    for digest in (*made.singles.values(), made.pooled, made.mean):
        engine.load_adapter(digest, bundle_folder(digest))
    found, tried = lines(rows, made, answers(engine, made, ranks), ranks)
    home = {row.text: ranks[row.text].choice == made.singles[row.domain] for row in rows}
    shown(rows, found, home)
    return figures(rows, found, tried)
