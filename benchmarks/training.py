"""Training on real data: how long to the same accuracy as TRL, how fast a step is, what the cache and precision do.

    MOATELIER_BENCH_DATA=FOLDER python -m benchmarks.training [--quick] [--only time,tokens,...]

Reads `banking77/{train,test}.csv` from that folder; needs the pulled pack smollm2-135m-instruct. Both sides train in
processes of their own, one after the other, on the same rows in the same chat template.

time     11 intents x 40 rows, 3 epochs, batches of 16: seconds of training by TRL's defaults over ours, with the
         accuracy of both on the 440 test rows of these intents, over 3 seeds (`--quick`: 1)
tokens   steps with all layers adapted: tokens a second over TRL's defaults, and over TRL tuned by hand
cache    epochs after the first with the top third adapted on the cached output of the frozen layers, over all layers
loss     200 steps (`--quick`: 40) on all 77 intents beside a plain float32 loop (benchmarks/reference_loop.py)
peak     most memory of a training process on rows of 4,096 tokens
forecast five trainings of different shapes (`--quick`: 2): the worst error of the forecast time and of the peak
search   twelve separate trainings over a search of twelve trials (benchmarks/searching.py)
dpo      a style preferred in pairs: its share of held-out answers (benchmarks/alignment.py)
grpo     a reward for JSON of a schema: its share of held-out answers (the same)
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import mean, median
from typing import Any

import torch
from peft import PeftModel
from rich.console import Console
from rich.table import Table

from benchmarks import alignment, forecast, reference_loop, searching, tuning
from benchmarks.asking import messages
from benchmarks.text import ELEVEN, ROWS_AN_INTENT, few, read
from moatelier.contracts import TrainResult, TrainSpec
from moatelier.settings import settings
from modalities import catalogue
from modalities.bundle import bundle_folder
from modalities.text.model import load_base
from modalities.text.template import encode_row
from store import db

Texts = list[tuple[str, str]]
SEEDS, STEPS, WARM = 3, 12, 3
WINDOW = 20
"""Steps over which losses are compared: single ones jump."""
LONG = 4096
console = Console(stderr=True)


def elevens(folder: Path, name: str) -> Texts:
    """The rows of the eleven intents."""
    return [(row["text"], row["category"]) for row in few(read(folder / f"{name}.csv"), ELEVEN, ROWS_AN_INTENT)]


def ours(card: str, here: Path, **changes: Any) -> tuple[TrainResult, list[dict[str, Any]]]:
    """One training in a process of its own, as a worker starts it, with its progress events."""
    spec = TrainSpec(base=settings().base, dataset=card, suffix="bench", **(tuning.RECIPE | {"epochs": 3.0} | changes))
    file, folder = here / f"{spec.digest[:16]}.json", here / spec.digest[:16]
    file.write_text(spec.model_dump_json(), encoding="utf-8")
    command = [sys.executable, "-m", "training.run", "--spec", str(file), "--folder", str(folder), "--quiet"]
    subprocess.run(command, check=True, stdout=sys.stderr)
    events = [json.loads(line) for line in (folder / "events.jsonl").read_text(encoding="utf-8").splitlines()]
    steps = [one["body"] for one in events if one["kind"] == "progress" and one["body"].get("phase") == "train"]
    return TrainResult.model_validate_json((folder / "result.json").read_bytes()), steps


def trl(texts: Texts, here: Path, seed: int, **changes: Any) -> dict[str, Any]:
    """One training by TRL; its figures, and `out`, the folder with the adapter."""
    out = here / f"trl-{seed}-{len(changes)}-{changes.get('tuned', False)}"
    out.mkdir()
    made = [row.messages for row in tuning.rows_of(texts)]
    lines = [json.dumps({"prompt": list(each[:-1]), "completion": [each[-1]]}) for each in made]
    (out / "rows.jsonl").write_text("\n".join(lines), encoding="utf-8")
    base = str(catalogue.folder(settings().base))
    spec = {"rows": str(out / "rows.jsonl"), "base": base, "out": str(out), "seed": seed, **changes}
    (out / "spec.json").write_text(json.dumps(spec), encoding="utf-8")
    command = [sys.executable, "-m", "benchmarks.trl_peer", "--spec", str(out / "spec.json")]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    return {**json.loads(done.stdout.splitlines()[-1]), "out": out}


@torch.inference_mode()
def right(adapter: Path, texts: Texts) -> float:
    """Share of rows that an adapter's folder answers rightly, by PEFT and transformers' greedy decoding: both sides."""
    base = load_base(settings().base)
    model = PeftModel.from_pretrained(base.model, adapter).eval()
    found, pad = 0, base.tokenizer.pad_token_id
    for at in range(0, len(texts), 32):
        chunk = texts[at : at + 32]
        ids = [
            base.tokenizer.apply_chat_template(messages(text), add_generation_prompt=True, return_dict=False)
            for text, _ in chunk
        ]
        width = max(map(len, ids))
        told = model.generate(
            input_ids=torch.tensor([[pad] * (width - len(each)) + each for each in ids]),
            attention_mask=torch.tensor([[0] * (width - len(each)) + [1] * len(each) for each in ids]),
            max_new_tokens=16,
            do_sample=False,
            eos_token_id=list(base.stop_ids),
            pad_token_id=pad,
        )
        answers = base.tokenizer.batch_decode(told[:, width:], skip_special_tokens=True)
        found += sum(answer.strip() == label for answer, (_, label) in zip(answers, chunk, strict=True))
    return found / len(texts)


def time_to_accuracy(folder: Path, here: Path, quick: bool) -> dict[str, float]:
    """Seconds of training and accuracy, ours and TRL's, in pairs."""
    train, test = elevens(folder, "train"), elevens(folder, "test")
    card = tuning.card_of(tuning.rows_of(train))
    ratios, gaps = [], []
    for seed in range(1 if quick else SEEDS):
        mine, _ = ours(card, here, seed=seed, learning_rate=2e-3)  # the planner's rate for so few rows
        theirs = trl(train, here, seed)
        accuracies = [right(each, test) for each in (bundle_folder(mine.bundle), theirs["out"])]
        ratios.append(theirs["seconds"] / mine.seconds)
        gaps.append(100 * (accuracies[1] - accuracies[0]))
        told = f"{mine.seconds:.0f} s, {accuracies[0]:.1%}; TRL {theirs['seconds']:.0f} s, {accuracies[1]:.1%}"
        console.print(f"seed {seed}: {told}")
    return {"time_vs_trl": median(ratios), "acc_gap_points": mean(gaps)}


def tokens(folder: Path, here: Path, quick: bool) -> dict[str, float]:
    """Tokens a second with all layers adapted, over TRL's."""
    train = elevens(folder, "train")
    card = tuning.card_of(tuning.rows_of(train))
    epochs = STEPS * 16 / len(train)
    _, steps = ours(card, here, layers="all", epochs=epochs)
    fast = median(step["tokens_per_s"] for step in steps[WARM:])
    plain, tuned = trl(train, here, 0, steps=STEPS), trl(train, here, 0, steps=STEPS, tuned=True)
    console.print(f"tokens/s: {fast:.0f}; TRL {plain['tokens_per_s']:.0f}, tuned {tuned['tokens_per_s']:.0f}")
    return {"tokens_vs_trl": fast / plain["tokens_per_s"], "tokens_vs_trl_tuned": fast / tuned["tokens_per_s"]}


def cache(folder: Path, here: Path, quick: bool) -> dict[str, float]:
    """What a step costs on the cached output of the frozen layers, against all layers."""
    train = elevens(folder, "train")
    card = tuning.card_of(tuning.rows_of(train))
    speeds = []
    for layers in ("all", "top_third"):
        _, steps = ours(card, here, layers=layers, epochs=2 * STEPS * 16 / len(train), seed=7)
        speeds.append(median(step["tokens_per_s"] for step in steps[WARM:]))
    return {"cached_epoch_speedup": speeds[1] / speeds[0]}


def loss(folder: Path, here: Path, quick: bool) -> dict[str, float]:
    """The largest relative difference of the mean loss of `WINDOW` steps from the plain loop's."""
    texts = [(row["text"], row["category"]) for row in read(folder / "train.csv")][::5]
    rows = tuning.rows_of(texts)
    card, steps = tuning.card_of(rows), 40 if quick else 200
    epochs = steps * 16 / len(rows)
    found = {}
    for precision in ("fp32", "bf16"):
        result, _ = ours(card, here, precision=precision, epochs=epochs)
        found[precision] = [value for _, value in result.curve]
    spec = TrainSpec(base=settings().base, dataset=card, suffix="plain", **(tuning.RECIPE | {"epochs": epochs}))
    told = [{"row": row.number, "messages": list(row.messages)} for row in rows]
    plain = reference_loop.curve(spec, told, len(found["fp32"]))
    gaps = {}
    for precision, curve in found.items():
        pairs = [(mean(curve[at : at + WINDOW]), mean(plain[at : at + WINDOW])) for at in range(0, len(plain), WINDOW)]
        gaps[f"loss_gap_{precision}"] = max(abs(mine - theirs) / theirs for mine, theirs in pairs)
    return gaps


def peak(folder: Path, here: Path, quick: bool) -> dict[str, float]:
    """Most memory of a training process, all layers adapted, on rows of `LONG` tokens."""
    base = load_base(settings().base)
    words = " ".join(row["text"] for row in read(folder / "train.csv"))
    rows = tuning.rows_of([(words[at * 20000 :][:20000], "long") for at in range(4)])
    for place, row in enumerate(rows):
        text = row.messages[1]["content"]
        while (size := len(encode_row(base.tokenizer, list(row.messages), base.stop_ids).ids)) > LONG:
            text = text[: int(len(text) * LONG / size) - 5]
            row.messages[1]["content"] = text
        console.print(f"row {place + 1}: {size} tokens")
    result, _ = ours(tuning.card_of(rows), here, layers="all", batch_rows=2, epochs=1.0, max_tokens=LONG)
    return {"peak_gb": result.peak_bytes / 1e9}


PARTS: dict[str, Callable[[Path, Path, bool], dict[str, float]]] = {
    "time": time_to_accuracy,
    "tokens": tokens,
    "cache": cache,
    "loss": loss,
    "peak": peak,
    "forecast": lambda folder, here, quick: forecast.errors(folder, here, forecast.SHAPES[: 2 if quick else None]),
    "search": searching.search,
    "dpo": alignment.dpo_win_rate,
    "grpo": alignment.grpo_json_rate,
}


def measure(parts: Sequence[str], quick: bool) -> dict[str, float]:
    """All figures of the parts, in one empty data directory."""
    folder, kept = settings().bench_data, settings().cache
    if folder is None:
        raise SystemExit("Set MOATELIER_BENCH_DATA to the folder with banking77/.")
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as place:
        os.environ |= {"MOATELIER_HOME": f"{place}/home", "MOATELIER_CACHE": str(kept)}
        settings.cache_clear()
        db.migrate()
        for part in parts:
            here = Path(place) / part
            here.mkdir()
            found |= PARTS[part](folder / "banking77", here, quick)
            console.print(found)  # at once: all parts together take an hour
    return found


def main() -> None:
    """Measure, print a table, end with one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one seed, fewer steps")
    parser.add_argument("--only", default=",".join(PARTS), help="only these parts, by commas")
    arguments = parser.parse_args()
    figures = measure(arguments.only.split(","), arguments.quick)
    table = Table("figure", "value")
    for name, value in figures.items():
        table.add_row(name, f"{value:.4g}")
    Console().print(table)
    print(json.dumps({name: round(value, 6) for name, value in figures.items()}))


if __name__ == "__main__":
    main()
