"""A text adapter as a PEFT folder, as a merged folder of transformers, or as a GGUF file.

Merged is in float32 from the base's full weights. The reference for logits is PEFT's own, unmerged, in float32; that
for answers is the engine that serves.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor

from moatelier.contracts import AdapterManifest, ExportSpec
from moatelier.errors import InvalidRequest
from modalities import catalogue
from modalities.bundle import bundle_folder, open_bundle
from modalities.text.model import TextBase, load_base
from serving.engine import TextEngine
from serving.sampling import Sampling
from serving.turns import prompt_ids
from training.export import Answer, Prompts, Reading, gguf_file, merged_folder, peft_folder

POSITIONS = 32
"""Tokens of an answer whose logits are compared, at most."""
ANSWER_TOKENS = 64
TOLERANCES: Mapping[tuple[str, str], tuple[float, float]] = {
    ("peft", "f32"): (1e-3, 0.0),
    ("safetensors", "f32"): (1e-3, 0.0),
    ("gguf", "f32"): (1e-3, 0.0),
    ("gguf", "f16"): (0.1, 0.02),
    ("gguf", "q8_0"): (1.0, 0.02),
}
"""(format, numbers) -> the difference of logits and of the score that is let through."""
_WRITERS: Mapping[str, Any] = {"peft": peft_folder, "safetensors": merged_folder, "gguf": gguf_file}


class TextExport:
    """See `training.export`."""

    def __init__(self, spec: ExportSpec, manifest: AdapterManifest) -> None:
        self._spec, self._manifest, self._folder = spec, manifest, bundle_folder(spec.bundle)
        self._writer = _WRITERS[spec.format]
        self.tolerance, self.score_tolerance = TOLERANCES[spec.format, spec.numbers]
        self.size = self._writer.size(catalogue.folder(manifest.base), self._folder, spec.numbers)
        self._prompts: list[list[int]] = []
        self._asked: list[list[Mapping[str, Any]]] = []
        self._answers: list[Answer] = []
        self._expected: list[Tensor] = []
        self._merge_difference: float | None = None

    def ask(self, prompts: Prompts, truths: Sequence[str]) -> list[Answer]:
        """What the engine answers, greedily."""
        engine = TextEngine(self._manifest.base, "fp32")
        engine.load_adapter("it", self._folder)
        system = self._manifest.system
        self._asked = [_with_system(messages, system) for messages in prompts]
        self._prompts = [prompt_ids(engine.base, messages) for messages in self._asked]
        given = engine.generate(self._asked, adapter="it", sampling=Sampling(max_tokens=ANSWER_TOKENS))
        self._answers = [Answer(one.ids, one.text, one.finish_reason == "stop") for one in given]
        return self._answers

    def write(self, folder: Path) -> None:
        """Attach, look at the logits, merge where the format wants it, look again, write."""
        base = load_base(self._manifest.base, "fp32")
        open_bundle(self._folder, base_digest=base.digest, template_digest=self._manifest.template_digest)
        model = attached(base, self._folder)
        self._expected = self._logits(model)
        if self._writer.MERGES:
            model = merged(model)
            self._merge_difference = max(self._differences(self._logits(model)))
        self._writer.write(folder, model, base, self._manifest, self._spec.numbers)

    def read(self, folder: Path) -> Reading:
        """The other library's answers and logits. Prompts are rendered by what the export says of them."""
        model, tokenizer, reader = self._writer.read(folder, self._manifest)
        model.eval()
        answers = [self._answered(model, tokenizer, messages) for messages in self._asked]
        differences = self._differences(self._logits(model))
        return Reading(reader, answers, differences, self._merge_difference)

    def _answered(self, model: Any, tokenizer: Any, messages: Sequence[Mapping[str, Any]]) -> Answer:
        told = tokenizer.apply_chat_template(list(messages), add_generation_prompt=True, return_dict=True)
        ids = torch.tensor([list(told["input_ids"])])
        with torch.inference_mode():
            made = model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                do_sample=False,
                max_new_tokens=ANSWER_TOKENS,
                pad_token_id=tokenizer.pad_token_id,
            )
        new = made[0, ids.shape[1] :].tolist()
        stopped = bool(new) and new[-1] in self._manifest.stop_ids
        new = new[:-1] if stopped else new  # a stop token further inside is one at which it should have stopped
        return Answer(tuple(new), tokenizer.decode(new, skip_special_tokens=True), stopped)

    def _logits(self, model: Any) -> list[Tensor]:
        """Logits `[positions, vocabulary]` at which each answer's tokens are chosen."""
        found = []
        for prompt, answer in zip(self._prompts, self._answers, strict=True):
            ids = [*prompt, *answer.ids[: POSITIONS - 1]]
            with torch.inference_mode():
                logits: Tensor = model(input_ids=torch.tensor([ids], device=model.device)).logits[0, len(prompt) - 1 :]
            found.append(logits.float().cpu().clone())
        return found

    def _differences(self, logits: Sequence[Tensor]) -> list[float]:
        return [float((ours - theirs).abs().max()) for ours, theirs in zip(self._expected, logits, strict=True)]


def attached(base: TextBase, folder: Path) -> Any:
    """PEFT's model with a bundle's adapter, as PEFT itself loads it.

    Raises:
        InvalidRequest: PEFT does not load it on this base.
    """
    try:
        return PeftModel.from_pretrained(base.model, str(folder)).eval()
    except (ValueError, TypeError, KeyError, RuntimeError) as error:
        raise InvalidRequest(f"PEFT does not load the adapter: {error}", where=str(folder)) from error


def merged(model: Any) -> Any:
    """The plain model with the adapter in its weights.

    Raises:
        InvalidRequest: It acts on some tokens only, or PEFT cannot merge its kind, or it would change a tied head.
    """
    config = model.peft_config["default"]
    kind = str(getattr(config.peft_type, "value", config.peft_type)).lower()
    other = "Export it as `peft`, or tune the adapter by `lora`."
    if getattr(config, "alora_invocation_tokens", None):
        raise InvalidRequest("It acts on answers only, which weights cannot say.", where="format", remedy=other)
    if _changes_tied(model):
        raise InvalidRequest("It changes a head that shares its weights with the words.", where="format", remedy=other)
    merge: Callable[..., Any] = getattr(model, "merge_and_unload", lambda **_: None)
    try:
        plain = merge(safe_merge=True)
    except (ValueError, NotImplementedError, AttributeError, TypeError) as error:
        raise InvalidRequest(f"PEFT cannot merge {kind}: {error}", where="format", remedy=other) from error
    if plain is None:
        raise InvalidRequest(f"PEFT cannot merge {kind}.", where="format", remedy=other)
    return plain.eval()


def _changes_tied(model: Any) -> bool:
    """Whether words or head are no plain layer where one matrix is both: merging one would change the other."""
    plain = {"get_input_embeddings": torch.nn.Embedding, "get_output_embeddings": torch.nn.Linear}
    tied = getattr(getattr(model, "config", None), "tie_word_embeddings", False)
    return tied and any(type(getattr(model, name)()) is not kind for name, kind in plain.items())


def _with_system(messages: Sequence[Mapping[str, Any]], system: str) -> list[Mapping[str, Any]]:
    started = bool(messages) and messages[0]["role"] == "system"
    first = [{"role": "system", "content": system}] if system and not started else []
    return [*first, *messages]
