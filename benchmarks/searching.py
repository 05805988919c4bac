"""What a search saves: twelve trials with successive halving on one cache, against twelve trainings by themselves.

Part `search` of benchmarks/training.py; by itself, for a smaller trial of it:

    MOATELIER_BENCH_DATA=FOLDER python -m benchmarks.searching [--quick]

Both sides train in processes of their own, one after the other, on the same rows; wall time counts, with all that a
process needs to start. Of the twelve separate trainings every third is run (`--quick`: two of them) and stands for the
others, since rank and learning rate hardly change what a step costs; each begins without a cache, as one alone does.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import mean

from rich.console import Console

from agents import halving
from agents.halving import Train
from agents.rungs import Searched, spec_of
from agents.rungs import told as settings_told
from benchmarks import tuning
from benchmarks.text import ELEVEN, ROWS_AN_INTENT, few, read
from moatelier.contracts import Leg, Search, TrainResult, TrainSpec
from moatelier.settings import settings
from store import db

TRIALS = 12
SPACE = {"rank": (4, 8, 16, 32), "learning_rate": (5e-4, 1e-3, 2e-3, 4e-3, 8e-3)}
EVERY = 3
DEV_EVERY = 8
"""Of the eleven intents' test rows one in so many is a dev row: 55."""
console = Console(stderr=True)


def search(folder: Path, here: Path, quick: bool) -> dict[str, float]:
    """Wall time of twelve separate trainings over that of a search."""
    rows, dev = (few(read(folder / f"{name}.csv"), ELEVEN, ROWS_AN_INTENT) for name in ("train", "test"))
    texts, held = ([(row["text"], row["category"]) for row in each] for each in (rows, dev[::DEV_EVERY]))
    card = tuning.card_of(tuning.rows_of(texts), tuning.rows_of(held))
    usual = TrainSpec(base=settings().base, dataset=card, suffix="searched", **(tuning.RECIPE | {"epochs": 3.0}))
    about = Searched(
        search=Search.model_validate({"by": "tpe", "space": SPACE}),
        usual=usual,
        rows=len(texts),
        trials=TRIALS,
        seconds=1e6,
        row_seconds=1.0,
    )
    return compared(about, here, quick)


def compared(about: Searched, here: Path, quick: bool) -> dict[str, float]:
    """Both sides on whatever is searched."""
    began = time.monotonic()
    legs = searched(about, here / "legs")
    together = time.monotonic() - began
    drawn = [spec_of(about.usual, leg.values) for leg in legs if leg.rung == 0]
    apart = []
    for spec in drawn[:: len(drawn) // 2 if quick else EVERY]:
        shutil.rmtree(settings().home / "frozen", ignore_errors=True)
        began = time.monotonic()
        result = train(spec, here / "apart" / spec.digest[:16])
        apart.append(time.monotonic() - began)
        console.print(f"alone: {apart[-1]:.0f} s, dev loss {result.dev_loss:.4g}")
    best = min((leg for leg in legs if leg.result and leg.result.stopped == "finished"), key=halving.loss_of)
    told = f"{settings_told(best.values)}, dev loss {halving.loss_of(best):.4g}"
    console.print(f"search: {len(legs)} legs in {together:.0f} s; best {told}; alone {mean(apart):.0f} s a training")
    return {"search_speedup": len(drawn) * mean(apart) / together}


def searched(about: Searched, folder: Path) -> list[Leg]:
    """All legs of a search, one after the other, as its graph runs them."""
    legs: list[Leg] = []
    while isinstance(move := halving.next_move(about, legs, ()), Train):
        key = f"trial-{move.leg.trial}-{move.leg.rung}"
        leg = move.leg.model_copy(update={"key": key, "result": train(move.leg.spec, folder / key)})
        leg = leg.model_copy(update={"seconds": halving.measured(leg, halving.before(leg, legs))})
        legs.append(leg)
        console.print(
            f"trial {leg.trial + 1}, rung {leg.rung + 1}: {settings_told(leg.values)}: {halving.loss_of(leg):.4g}"
        )
    return legs


def train(spec: TrainSpec, folder: Path) -> TrainResult:
    """One training in a process of its own, as a worker starts it."""
    folder.mkdir(parents=True)
    (folder / "spec.json").write_text(spec.model_dump_json(), encoding="utf-8")
    command = [sys.executable, "-m", "training.run", "--spec", str(folder / "spec.json"), "--folder", str(folder)]
    subprocess.run([*command, "--quiet"], check=True, stdout=sys.stderr)
    return TrainResult.model_validate_json((folder / "result.json").read_bytes())


def main() -> None:
    """Measure and end with one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer of the separate trainings")
    arguments = parser.parse_args()
    data, cache = settings().bench_data, settings().cache
    if data is None:
        raise SystemExit("Set MOATELIER_BENCH_DATA to the folder with banking77/.")
    with tempfile.TemporaryDirectory() as place:
        os.environ |= {"MOATELIER_HOME": f"{place}/home", "MOATELIER_CACHE": str(cache)}
        settings.cache_clear()
        db.migrate()
        print(json.dumps(search(data / "banking77", Path(place), arguments.quick)))


if __name__ == "__main__":
    main()
