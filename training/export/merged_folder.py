"""A merged model as a folder that transformers, vLLM and most others load: safetensors in float32, with tokenizer."""

import json
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, logging

from moatelier.contracts import AdapterManifest
from modalities import catalogue
from modalities.text.model import TextBase

MERGES = True
_GENERATION = "generation_config.json"


def size(base: Path, bundle: Path, numbers: str) -> int:
    """About how many bytes it takes: as the base in float32 at most."""
    return sum(file.stat().st_size for file in base.glob("*.safetensors")) * 2


def write(folder: Path, model: Any, base: TextBase, manifest: AdapterManifest, numbers: str) -> None:
    """Weights and shape by transformers; everything else is the base's own, with the adapter's stop tokens."""
    model.config.name_or_path = ""  # where it lay on this machine is nobody's business
    model.save_pretrained(folder)
    source = catalogue.folder(manifest.base)
    for file in sorted(source.iterdir()):
        if file.name not in ("pack.json", "config.json") and file.suffix in (".json", ".jinja", ".txt", ".model"):
            if not file.name.endswith(".index.json"):
                shutil.copyfile(file, folder / file.name)
    _stop_at(folder / _GENERATION, manifest)


def read(folder: Path, manifest: AdapterManifest) -> tuple[Any, Any, str]:
    """By transformers, from the folder alone."""
    logging.disable_progress_bar()
    model = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    return model, tokenizer, f"transformers {version('transformers')}"


def _stop_at(file: Path, manifest: AdapterManifest) -> None:
    told = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    told["eos_token_id"] = list(manifest.stop_ids)
    file.write_text(json.dumps(told, indent=2, sort_keys=True) + "\n", encoding="utf-8")
