"""A PEFT folder for PEFT and vLLM: the adapter's weights as they are, and of its configuration what differs.

Older readers refuse fields that they do not know, and vLLM refuses some that say nothing, so that fields which stand at
their defaults are left out.
"""

import json
import shutil
from dataclasses import MISSING, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from peft import PEFT_TYPE_TO_CONFIG_MAPPING, PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, logging

from moatelier.contracts import AdapterManifest
from modalities import catalogue
from modalities.bundle import CONFIG, WEIGHTS, bundle_folder
from modalities.text.model import TextBase

MERGES = False
_ALWAYS = ("peft_type", "task_type", "base_model_name_or_path", "r", "lora_alpha", "target_modules", "bias")
_VLLM_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""What its `--max-lora-rank` takes."""


def size(base: Path, bundle: Path, numbers: str) -> int:
    """About how many bytes it takes."""
    return sum(file.stat().st_size for file in bundle.iterdir())


def write(folder: Path, model: Any, base: TextBase, manifest: AdapterManifest, numbers: str) -> None:
    """The two files that PEFT reads, the tokenizer with the template it was tuned with, and how to serve it."""
    source, pack = bundle_folder(manifest.digest), catalogue.folder(manifest.base)
    shutil.copyfile(source / WEIGHTS, folder / WEIGHTS)
    told = plain_config(json.loads((source / CONFIG).read_bytes())) | {"base_model_name_or_path": str(pack)}
    (folder / CONFIG).write_text(json.dumps(told, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    base.tokenizer.save_pretrained(folder)
    (folder / "README.md").write_text(_readme(manifest, told, pack), encoding="utf-8")


def plain_config(told: dict[str, Any]) -> dict[str, Any]:
    """A configuration without the fields that stand at PEFT's defaults, or that only we know."""
    kind = PEFT_TYPE_TO_CONFIG_MAPPING[told["peft_type"]]
    kept = {}
    for field in fields(kind):
        usual = field.default if field.default_factory is MISSING else field.default_factory()
        if field.name in told and (field.name in _ALWAYS or told[field.name] != usual):
            kept[field.name] = told[field.name]
    kept.pop("peft_version", None)
    return kept | {"inference_mode": True}


def read(folder: Path, manifest: AdapterManifest) -> tuple[Any, Any, str]:
    """By PEFT, on the base that the folder names."""
    logging.disable_progress_bar()
    named = json.loads((folder / CONFIG).read_bytes())["base_model_name_or_path"]
    base = AutoModelForCausalLM.from_pretrained(named, local_files_only=True, dtype=torch.float32)
    model = PeftModel.from_pretrained(base, str(folder))
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    return model, tokenizer, f"peft {version('peft')}"


def _readme(manifest: AdapterManifest, told: dict[str, Any], pack: Path) -> str:
    rank = next((rank for rank in _VLLM_RANKS if rank >= told.get("r", 0)), None)
    served = (
        f"    vllm serve {pack} --enable-lora --max-lora-rank {rank} --lora-modules {manifest.suffix}=/this/folder\n"
        if told["peft_type"] == "LORA" and rank and not told.get("use_dora")
        else "vLLM does not run this kind of adapter; PEFT does.\n"
    )
    system = f"\nIts prompts start with this system message:\n\n    {manifest.system}\n" if manifest.system else ""
    return (
        f"# {manifest.suffix}\n\nAn adapter of {manifest.base} (base {manifest.base_digest[:12]}, {manifest.licence}), "
        f"sealed as {manifest.digest}. Its base lies in {pack}: no other weights of the same name will do.\n\n"
        f"{served}{system}"
    )
