"""Seven narrow domains and their rows: what trains, what calibrates the router, what chooses, what is tested.

Six are groups of banking77's intents. Their test rows come from its test file, all others from its training file. The
seventh is examples/support.csv, split by hash: its rows are generated, so what is tested there is in part a rewording
of what was trained on. That flatters every line that knows the domain alike. No text occurs twice.
"""

import csv
from hashlib import sha256
from itertools import chain, zip_longest
from pathlib import Path
from typing import NamedTuple

from benchmarks.domains import NARROW

Row = tuple[str, str]
"""A text and its intent."""
DOMAINS = NARROW | {"exchange": NARROW["exchange"] + " country_support card_payment_wrong_exchange_rate"}
"""Four intents have 160 test rows together; two more make them 240."""
SUPPORT = Path(__file__).parent.parent / "examples" / "support.csv"
TOKENS = 11
"""The longest intent of these domains and its stop token."""


class Sizes(NamedTuple):
    """Rows of each domain.

    Those that train are a multiple of a batch, so that one adapter on all domains takes exactly the steps of seven.
    """

    train: int = 208
    dev: int = 60
    select: int = 30
    test: int = 200


class Parts(NamedTuple):
    """The rows of one domain; `dev` calibrates the router, `select` chooses among subjects, `test` is only scored."""

    train: list[Row]
    dev: list[Row]
    select: list[Row]
    test: list[Row]


def read(folder: Path, sizes: Sizes) -> dict[str, Parts]:
    """Domain -> its rows.

    Args:
        folder: With banking77's train.csv and test.csv.
        sizes: How many of each.

    Raises:
        SystemExit: A domain has too few.
    """
    tested, given = _rows(folder / "test.csv", "text", "category"), _rows(folder / "train.csv", "text", "category")
    seen: set[str] = set()
    found = {}
    for domain, intents in DOMAINS.items():
        mine = [[row for row in rows if row[1] in intents.split()] for rows in (tested, given)]
        test = _fresh(mine[0], seen)[: sizes.test]
        found[domain] = _parts(domain, test, _fresh(mine[1], seen), sizes)
    rows = _fresh(_rows(SUPPORT, "message", "intent"), seen)
    found["support"] = _parts("support", rows[: sizes.test], rows[sizes.test :], sizes)
    return found


def _rows(path: Path, text: str, intent: str) -> list[Row]:
    """A file's rows in the order of their texts' hashes."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = [(row[text].strip(), row[intent]) for row in csv.DictReader(file)]
    return sorted(rows, key=lambda row: sha256(row[0].encode()).digest())


def _fresh(rows: list[Row], seen: set[str]) -> list[Row]:
    """The rows whose text was not seen, but for case and blanks; they are seen now."""
    kept = []
    for row in rows:
        form = " ".join(row[0].casefold().split())
        if form not in seen:
            seen.add(form)
            kept.append(row)
    return kept


def _parts(domain: str, test: list[Row], others: list[Row], sizes: Sizes) -> Parts:
    train = _evenly(others)[: sizes.train]
    left = [row for row in others if row not in set(train)]
    parts = Parts(train, left[: sizes.dev], left[sizes.dev : sizes.dev + sizes.select], test)
    if tuple(map(len, parts)) != sizes:
        raise SystemExit(f"{domain} has {Sizes(*map(len, parts))}, not {sizes}.")
    return parts


def _evenly(rows: list[Row]) -> list[Row]:
    """Intent after intent in turn, so that the first n rows hold each as often as it can be."""
    intents: dict[str, list[Row]] = {}
    for row in rows:
        intents.setdefault(row[1], []).append(row)
    turns = zip_longest(*(intents[name] for name in sorted(intents)))
    return [row for row in chain.from_iterable(turns) if row is not None]
