"""What people tune a small model with: TRL's SFTTrainer, in a process of its own.

    python -m benchmarks.trl_peer --spec spec.json

`spec.json` holds `rows` (a JSONL file with `prompt` and `completion` in messages), `base` (a model's folder), `out`
(where the adapter is saved), `seed`, and maybe `steps` (stop after so many) and `tuned`: bf16 weights and no gradient
checkpointing, as somebody would set who knows both. All else is `SFTConfig`'s default but for what both have:
batches of 16, 3 epochs, learning rate 1e-3, LoRA r=16 alpha=32 on all linear layers. Prints one JSON line.
"""

import argparse
import json
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoTokenizer, TrainerCallback
from trl import SFTConfig, SFTTrainer

BATCH, WARM = 16, 3


class Clock(TrainerCallback):  # type: ignore[misc]  # transformers' has no types
    """The seconds of each step."""

    def __init__(self) -> None:
        self.steps: list[float] = []
        self._began = 0.0

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        """Start."""
        self._began = time.perf_counter()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """Stop."""
        self.steps.append(time.perf_counter() - self._began)


def run(spec: dict[str, Any]) -> dict[str, float]:
    """Train; returns seconds of the whole training, of a step, and tokens a second without the first steps."""
    rows = [json.loads(line) for line in Path(spec["rows"]).read_text(encoding="utf-8").splitlines()]
    tokenizer = AutoTokenizer.from_pretrained(spec["base"])
    tuned = (
        {"gradient_checkpointing": False, "model_init_kwargs": {"dtype": torch.bfloat16}} if spec.get("tuned") else {}
    )
    arguments = SFTConfig(
        output_dir=spec["out"],
        per_device_train_batch_size=BATCH,
        learning_rate=1e-3,
        num_train_epochs=3,
        max_steps=spec.get("steps") or -1,
        seed=spec["seed"],
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        use_cpu=not torch.cuda.is_available(),  # its default of bf16 is refused on a CPU that is not asked for
        **tuned,
    )
    clock = Clock()
    trainer = SFTTrainer(
        model=spec["base"],
        args=arguments,
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        peft_config=LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"),
        callbacks=[clock],
    )
    began = time.perf_counter()
    trainer.train()
    seconds = time.perf_counter() - began
    trainer.save_model(spec["out"])
    steps = clock.steps[WARM:] or clock.steps
    tokens = sum(len(ids) for ids in trainer.train_dataset["input_ids"]) / len(rows) * BATCH
    return {"seconds": seconds, "step_s": median(steps), "tokens_per_s": tokens / median(steps)}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--spec", type=Path, required=True)
    print(json.dumps(run(json.loads(parser.parse_args().spec.read_text(encoding="utf-8")))))
