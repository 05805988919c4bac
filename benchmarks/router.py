"""The router on real text: six narrow domains of banking77 with the domain hidden, and the time of one choice.

    MOATELIER_BENCH_DATA=../shared/data python -m benchmarks.router

Reads `banking77/{train,test}.csv` (columns text, category) from that folder. Each domain is an adapter by its profile
alone: no language model is needed, and its own adapter counts as right, so the share of rows that come home is the
share of the domain oracle. Rows go as in a task: 80 % of the training file make the profile, 10 % the calibration;
every test row of the domains is routed once. Needs the pulled pack all-minilm-l6-v2.
"""

import csv
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from evals import router_card
from moatelier.contracts import HeldOut, RouterProfile
from moatelier.settings import settings
from modalities import catalogue
from modalities.embedding import embed
from serving.calibration import auroc, expected_error, probabilities
from serving.general import SENTENCES
from serving.prototypes import LIMIT, Vectors, pack, prototype_of, unit
from serving.router import Router

DOMAINS = {
    "cards": "card_arrival card_delivery_estimate activate_my_card order_physical_card getting_spare_card "
    "card_about_to_expire",
    "exchange": "exchange_charge exchange_rate exchange_via_app fiat_currency_support",
    "cash": "cash_withdrawal_charge cash_withdrawal_not_recognised declined_cash_withdrawal pending_cash_withdrawal "
    "wrong_amount_of_cash_received atm_support",
    "transfers": "beneficiary_not_allowed cancel_transfer failed_transfer pending_transfer transfer_fee_charged "
    "transfer_timing transfer_not_received_by_recipient",
    "top_ups": "automatic_top_up pending_top_up top_up_failed top_up_limits top_up_reverted verify_top_up",
    "identity": "unable_to_verify_identity verify_my_identity verify_source_of_funds why_verify_identity age_limit "
    "edit_personal_details",
}
ADAPTERS, CHOICES = 1000, 400
console = Console()
Rows = list[tuple[str, str]]


def rows_of(path: Path, domain: str) -> Rows:
    """(text, intent) of a domain's rows."""
    intents = set(DOMAINS[domain].split())
    with path.open(encoding="utf-8", newline="") as file:
        return [(row["text"], row["category"]) for row in csv.DictReader(file) if row["category"] in intents]


def profile_of(name: str, vectors: Vectors, labels: list[str]) -> RouterProfile:
    """A profile without an adapter behind it."""
    owners = prototype_of(vectors, labels)
    sums = np.stack([vectors[owners == place].sum(axis=0) for place in range(int(owners.max()) + 1)])
    return _profile(name, unit(sums), len(vectors))


def _profile(name: str, prototypes: Vectors, rows: int) -> RouterProfile:
    return RouterProfile(
        adapter=name,
        embedding=catalogue.EMBEDDING,
        embedding_digest=catalogue.base_digest(catalogue.EMBEDDING),
        modality="text",
        kind="classification",
        labels=(),
        rows=rows,
        dims=prototypes.shape[1],
        prototypes=pack(prototypes),
        counts=(1,) * len(prototypes),
        nearness=0.0,
        spread=0.0,
    )


def quality(folder: Path) -> dict[str, Any]:
    """Route the test rows of six domains."""
    profiles, held_out, texts, owners = [], {}, [], []
    for domain in sorted(DOMAINS):
        rows = rows_of(folder / "train.csv", domain)
        order = np.random.default_rng(0).permutation(len(rows))
        train, dev = np.split(order, [int(0.8 * len(rows)), int(0.9 * len(rows))])[:2]
        vectors = embed([text for text, _ in rows])
        profiles.append(profile_of(domain, vectors[train], [rows[place][1] for place in train]))
        held_out[domain] = HeldOut(adapter=domain, vectors=pack(vectors[dev]), right=(True,) * len(dev))
        tests = rows_of(folder / "test.csv", domain)
        texts += [text for text, _ in tests]
        owners += [len(profiles) - 1] * len(tests)
    strangers = embed(SENTENCES)
    calibration = router_card.calibrate(router_card.trial(profiles, held_out, strangers))
    router = Router(profiles, calibration)
    scores, home = router.scores(embed(texts)), np.array(owners)
    chances = probabilities(scores, calibration)
    return figures(scores, chances, home) | {"auroc": auroc(scores.max(axis=1), router.scores(strangers).max(axis=1))}


def figures(scores: Vectors, chances: Any, home: Any) -> dict[str, Any]:
    """Shares of the rows that come home, by our and other rules, and how well the probabilities are calibrated."""
    chosen = chances.argmax(axis=1)
    right = chosen == home
    return {
        "rows": len(home),
        "router": right.mean(),
        "never abstaining": (scores.argmax(axis=1) == home).mean(),
        "best single": np.bincount(home).max() / len(home),
        "random": 1 / len(DOMAINS),
        "to the base": (chosen == len(DOMAINS)).mean(),
        "calibration error": expected_error(chances.max(axis=1), right),
    }


def latency() -> tuple[float, float]:
    """p50 and p95 in milliseconds of one choice over 1,000 adapters, without the embedding."""
    random = np.random.default_rng(0)
    dims = 384
    router = Router([_profile(f"{n:064x}", unit(random.normal(size=(LIMIT, dims))), 100) for n in range(ADAPTERS)])
    times = []
    for vector in unit(random.normal(size=(CHOICES, dims))).tolist():
        begun = time.perf_counter()
        router.route(vector)
        times.append(1000 * (time.perf_counter() - begun))
    middle, late = np.quantile(times, [0.5, 0.95])
    return float(middle), float(late)


def main() -> None:
    folder = settings().bench_data
    if folder is None or not (folder / "banking77" / "test.csv").is_file():
        raise SystemExit("Set MOATELIER_BENCH_DATA to a folder with banking77/train.csv and banking77/test.csv.")
    found, (middle, late) = quality(folder / "banking77"), latency()
    table = Table("", "", title="six narrow domains, domain hidden", title_justify="left")
    for name, value in found.items():
        table.add_row(name, str(value) if name == "rows" else f"{value:.4f}")
    table.add_row(f"a choice over {ADAPTERS} adapters", f"p50 {middle:.2f} ms, p95 {late:.2f} ms")
    console.print(table)
    last = {"router_p95_ms": late, "router_vs_domain_oracle": found["router"], "router_ece": found["calibration error"]}
    print(json.dumps({name: round(float(value), 4) for name, value in last.items()}))


if __name__ == "__main__":
    main()
