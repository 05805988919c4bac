"""What fewer bits cost and bring: perplexity, an adapter's accuracy, speed and memory, by the engine's precision.

    MOATELIER_BENCH_DATA=../shared/data python -m benchmarks.precision [--quick]

Trains one adapter on eleven banking77 intents (40 rows each), then answers their 440 test rows in each precision; and
scores 100 worked answers of gsm8k by the base alone. `--quick` takes a quarter of the rows and one epoch.
Needs the pulled pack smollm2-135m-instruct.
"""

import argparse
import json
import math
import os
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks import tuning
from benchmarks.serving import BASE, questions, speed
from benchmarks.text import ELEVEN, few, read
from evals.answers import EvalRow
from evals.loss import mean_loss
from moatelier.settings import settings
from modalities.bundle import bundle_folder
from modalities.text.data import Row
from serving.engine import Sampling, TextEngine
from store import db

PRECISIONS = ("fp32", "bf16", "int8", "int4")


def answers(path: Path, count: int) -> list[EvalRow]:
    """Worked answers of gsm8k."""
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()[:count]]
    return [
        EvalRow(str(number), ({"role": "user", "content": line["question"]},), line["answer"])
        for number, line in enumerate(lines)
    ]


def perplexity(engine: TextEngine, rows: list[EvalRow]) -> float:
    """Of the base, per token of the answers."""
    losses = [mean_loss(engine, rows[start : start + 50], adapter=None) for start in range(0, len(rows), 50)]
    return math.exp(sum(loss for loss in losses if loss) / len(losses))


def accuracy(engine: TextEngine, rows: list[Row], adapter: str) -> float:
    """Of the adapter's greedy answers."""
    prompts = [row.messages[:-1] for row in rows]
    given = engine.generate(prompts, adapter=adapter, sampling=Sampling(14))
    return sum(answer.text.strip() == row.label for answer, row in zip(given, rows, strict=True)) / len(rows)


def main() -> None:
    """Measure, print a table, end with one JSON line."""
    parser = argparse.ArgumentParser(description="The engine's precisions.")
    parser.add_argument("--quick", action="store_true", help="a quarter of the rows, one epoch of training")
    quick = parser.parse_args().quick
    folder, cache = settings().bench_data, settings().cache
    if folder is None:
        raise SystemExit("Set MOATELIER_BENCH_DATA to the folder with banking77/ and gsm8k-small/.")
    with tempfile.TemporaryDirectory() as home:
        os.environ |= {"MOATELIER_HOME": home, "MOATELIER_CACHE": str(cache)}
        settings.cache_clear()
        db.migrate()
        figures = measure(folder, quick)
    names = list(next(iter(figures.values())))
    table = Table("precision", *names)
    for precision, found in figures.items():
        table.add_row(precision, *(f"{found[name]:.4g}" for name in names))
    Console().print(table)
    print(json.dumps({f"{name}_{precision}": value for precision, of in figures.items() for name, value in of.items()}))


def measure(folder: Path, quick: bool) -> dict[str, dict[str, float]]:
    """Precision -> its figures."""
    each = 10 if quick else 40
    train, test = (few(read(folder / "banking77" / f"{name}.csv"), ELEVEN, each) for name in ("train", "test"))
    made, held = (tuning.rows_of([(row["text"], row["category"]) for row in rows]) for rows in (train, test))
    bundle = tuning.train(tuning.card_of(made), BASE, "eleven", epochs=1.0 if quick else 4.0)
    worked = answers(folder / "gsm8k-small" / "test.jsonl", 25 if quick else 100)
    figures = {}
    for precision in PRECISIONS:
        engine = TextEngine(BASE, precision)
        engine.load_adapter(bundle, bundle_folder(bundle))
        speed(engine, questions(1), [None], 8)
        figures[precision] = {
            "perplexity": perplexity(engine, worked),
            "accuracy": accuracy(engine, held, bundle),
            "tokens_s_1": speed(engine, questions(1), [None]),
            "tokens_s_8": speed(engine, questions(8), [None] * 8),
            "weights_mb": engine.model.bytes / 1e6,
        }
    return figures


if __name__ == "__main__":
    main()
