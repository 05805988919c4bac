"""Preferences and rewards on the pack: short answers that are preferred in pairs, and JSON that is rewarded.

Parts of `benchmarks.training`. Customers' messages of banking77 are what is asked; answers are the pack's own.

dpo      the first sentence of what the pack answers is preferred to all of it; then the share of held-out messages
         whose greedy answer is one whole sentence
grpo     JSON of a schema is rewarded, JSON that opens with a brace a little; then the share of held-out messages whose
         greedy answer is valid. The prompt shows one example, which the pack follows in about a quarter of its samples
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from rich.console import Console

from benchmarks import tuning
from benchmarks.text import read
from moatelier.contracts import Columns, DatasetCard, RewardSpec, SplitInfo, TrainResult, TrainSpec
from moatelier.job import Job
from moatelier.settings import settings
from modalities.bundle import bundle_folder
from modalities.text import data
from serving.engine import TextEngine
from serving.sampling import Sampling
from store import artifacts
from training.rewards import valid_json
from training.run import work

HELPFUL = {"role": "system", "content": data.SYSTEM["chat"]}
ENDS, LEAST_WORDS = (".", "?", "!", '."', '?"', '!"'), 3
PAIRS, PROMPTS, HELD, SEEDS = 128, 128, 64, 3
LONGEST = 40
SHOWN: list[dict[str, str]] = [
    {"role": "system", "content": "Reply with JSON."},
    {"role": "user", "content": "My card has not arrived yet!"},
    {"role": "assistant", "content": '{"topic": "card", "urgent": true}'},
]
SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["topic", "urgent"],
    "properties": {"topic": {"type": "string"}, "urgent": {"type": "boolean"}},
    "additionalProperties": False,
}
console = Console(stderr=True)


def asked(folder: Path, name: str, count: int) -> list[str]:
    """So many messages, from all over the file."""
    texts = [row["text"] for row in read(folder / f"{name}.csv")]
    stride = len(texts) // count
    # The settings were found on the messages at 0, stride, 2 stride ... of the test file; these were never looked at.
    return texts[stride // 2 if name == "test" else 0 :: stride][:count]


def answers(prompts: Sequence[Sequence[dict[str, str]]], adapter: Path | None, sampling: Sampling) -> list[str]:
    """What the pack, or an adapter on it, answers."""
    engine = TextEngine(settings().base)
    if adapter is not None:
        engine.load_adapter("tuned", adapter)
    told = engine.generate(prompts, adapter="tuned" if adapter else None, sampling=sampling)
    return [one.text.strip() for one in told]


def train(kind: str, rows: Sequence[dict[str, Any]], here: Path, **fields: Any) -> TrainResult:
    """One training on these rows."""
    lines = "".join(json.dumps({"row": number + 1, **row}) + "\n" for number, row in enumerate(rows))
    card = DatasetCard(
        name="benchmark",
        source="0" * 64,
        test_source=None,
        licence="CC-BY-4.0",
        modality="text",
        kind=kind,
        columns=Columns(),
        labels=(),
        splits={"train": SplitInfo(rows=len(rows), artifact=artifacts.put_bytes(lines.encode()))},
        locked="0" * 64,
        report=tuning.untouched(len(rows)),
    )
    spec = TrainSpec(base=settings().base, dataset=artifacts.put_json(card), suffix="bench", **fields)
    job = Job(here / spec.digest[:16], quiet=True)
    return TrainResult.model_validate(work(spec.model_dump(), job))


def dpo_win_rate(folder: Path, here: Path, quick: bool) -> dict[str, float]:
    """Share of held-out messages that are answered in the preferred style, greedily; the base's beside it."""
    prompts = [[HELPFUL, {"role": "user", "content": text}] for text in asked(folder, "train", PAIRS)]
    rows = []
    for prompt, answer in zip(prompts, answers(prompts, None, Sampling(LONGEST)), strict=True):
        sentence = first_sentence(answer)
        if len(sentence) < len(answer) and is_one_sentence(sentence):
            rows.append({"messages": [*prompt, {"role": "assistant", "content": sentence}], "rejected": answer})
    # At the usual beta of 0.1 the preference is overdone within four epochs: answers become a word, or nothing.
    fields = {"method": "dpo", "beta": 0.5, "learning_rate": 5e-4, "epochs": 1.0 if quick else 2.0}
    held = [[HELPFUL, {"role": "user", "content": text}] for text in asked(folder, "test", HELD)]

    def rate(adapter: Path | None) -> float:
        found = answers(held, adapter, Sampling(2 * LONGEST))
        console.print(f"dpo: {found[:3]}")
        return sum(map(is_one_sentence, found)) / len(found)

    rates = []
    for seed in range(1 if quick else SEEDS):
        result = train("preference", rows, here, seed=seed, **fields)
        rates.append(rate(bundle_folder(result.bundle)))
        console.print(
            f"dpo, seed {seed}: {len(rows)} pairs, {result.steps} steps, {result.seconds:.0f} s: {rates[-1]:.1%}"
        )
    return {"dpo_win_rate": mean(rates), "dpo_base_rate": rate(None)}


def first_sentence(answer: str) -> str:
    """Up to the first full stop, question mark or exclamation mark that a blank or a line's end follows."""
    return re.split(r"(?<=[.?!])\s|\n", answer, maxsplit=1)[0].strip()


def is_one_sentence(answer: str) -> bool:
    """A whole sentence of a few words at least, and no more."""
    return first_sentence(answer) == answer and answer.endswith(ENDS) and len(answer.split()) >= LEAST_WORDS


def grpo_json_rate(folder: Path, here: Path, quick: bool) -> dict[str, float]:
    """Share of held-out messages that are answered in valid JSON of the schema, greedily; the base's beside it."""
    rewards = (
        RewardSpec(kind="json_schema", json_schema=json.dumps(SCHEMA), weight=4.0),
        RewardSpec(kind="regex", pattern=r"\{.*\}"),
    )
    rows = [{"messages": [*SHOWN, {"role": "user", "content": text}]} for text in asked(folder, "train", PROMPTS)]
    fields = {"group": 8, "new_tokens": 24, "batch_rows": 8, "learning_rate": 5e-4, "schedule": "constant"}
    epochs = 0.25 if quick else 1.0
    result = train("prompts", rows, here, method="grpo", epochs=epochs, rewards=rewards, **fields)
    valid = valid_json(rewards[0])
    held: list[list[dict[str, str]]] = [
        [*SHOWN, {"role": "user", "content": text}] for text in asked(folder, "test", HELD)
    ]
    rates = []
    for adapter in (None, bundle_folder(result.bundle)):
        found = answers(held, adapter, Sampling(24))
        rates.append(sum(valid([], found)) / len(found))
    console.print(f"grpo: {result.steps} steps in {result.seconds:.0f} s; {found[:3]}")
    return {"grpo_json_rate": rates[1], "grpo_json_base": rates[0]}
