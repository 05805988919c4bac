"""The text engine: one base, any number of adapters on it, one decode loop. No server, no threads of its own."""

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from transformers import DynamicCache

from moatelier.contracts import AdapterManifest
from moatelier.errors import IntegrityError, InvalidRequest
from moatelier.settings import settings
from modalities.bundle import open_bundle
from modalities.text.model import TextBase, load_base
from modalities.text.template import answer_text, render
from serving.constrained import Grammars
from serving.decoding import FinishReason, Forward, Prefix, Row, batches, common_prefix, decode, prefill
from serving.lora import Adapters, Loaded
from serving.sampling import Chooser, Sampling, TokenLogprob
from serving.textstream import TextStream

__all__ = ["Completion", "Delta", "Messages", "Sampling", "TextEngine"]

Messages = Sequence[Mapping[str, str]]
"""A conversation: {"role", "content"} each, the system message first if there is one."""

SHORTEST_PREFIX = 4
"""A shared beginning of fewer tokens is not worth a forward pass of its own."""


@dataclass(frozen=True)
class Completion:
    """A whole answer. `ids` are its tokens without the stop token; `completion_tokens` counts that too."""

    text: str
    ids: tuple[int, ...]
    finish_reason: FinishReason
    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True)
class Delta:
    """One more token of an answer; its text is empty while a character or a stop string is incomplete."""

    text: str
    finish_reason: FinishReason | None
    prompt_tokens: int
    completion_tokens: int
    """Generated so far."""
    index: int = 0
    """Which of several answers to the prompt."""
    logprobs: tuple[TokenLogprob, ...] = ()
    """The token's log probability, where they were asked for; the stop token has none."""


class TextEngine:
    """Generates with a base or one of its adapters. Steps of several threads exclude each other.

    Args:
        base_id: A catalogue id; the base must have been pulled.
        precision: `bf16`, `fp32`, or `auto` for what this machine is faster at; None takes the setting.

    Raises:
        ModelUnavailable: The base has not been pulled.
    """

    def __init__(self, base_id: str, precision: Literal["auto", "bf16", "fp32"] | None = None) -> None:
        self.base: TextBase = load_base(base_id, precision or settings().precision)
        self.device, self.context = self.base.device, self.base.config.context
        # With a sliding window the padding behind a shared prefix would count as distance.
        self._may_share = not getattr(self.base.model.config, "sliding_window", None)
        self._adapters = Adapters(self.base.model)
        self.grammars = Grammars(self.base.tokenizer, self.base.stop_ids)

    @property
    def adapters(self) -> dict[str, AdapterManifest]:
        """Loaded adapters by name."""
        return {loaded.name: loaded.manifest for loaded in self._adapters.all()}

    def load_adapter(self, name: str, bundle: Path) -> AdapterManifest:
        """Verify a sealed bundle and load it under a name. The same bundle again changes nothing.

        Raises:
            NotFound: There is no bundle in the folder.
            IntegrityError: Changed bytes, another base, template or stop tokens, weights that do not fit, or an
                adapter that does not change what the base says.
            Conflict: The name stands for another bundle.
        """
        manifest = open_bundle(bundle, base_digest=self.base.digest, template_digest=self.base.template_digest)
        if set(manifest.stop_ids) != set(self.base.stop_ids):
            what = f"The adapter was tuned to stop at tokens {manifest.stop_ids}, not {self.base.stop_ids}."
            raise IntegrityError(what, where=str(bundle), remedy="Tune it again on this base.")
        with self._adapters.lock:  # nobody may be answered by an adapter whose canary is not back yet
            loaded = self._adapters.add(name, bundle, manifest)
            try:
                self._check_canary(loaded)
            except IntegrityError:
                self._adapters.remove(name)
                raise
        return manifest

    def unload_adapter(self, name: str) -> None:
        """Forget an adapter. Answers it is in the middle of are finished with it.

        Raises:
            NotFound: No adapter of this name is loaded.
        """
        self._adapters.remove(name)

    def generate(
        self,
        prompts: Sequence[Messages],
        *,
        adapter: str | None,
        sampling: Sampling,
        batch: int = 32,
        progress: Callable[[int], None] | None = None,
    ) -> list[Completion]:
        """Answer many prompts, in their order. In float32 the tokens are those of one prompt at a time.

        What all prompts begin with (the system message of a task) is computed once.

        Args:
            prompts: Conversations to be answered.
            adapter: Name of a loaded adapter; None is the base.
            sampling: The same for all.
            batch: Rows computed together.
            progress: Called with the number of answers so far after each batch; may raise to stop.

        Raises:
            NotFound: No adapter of this name is loaded.
            InvalidRequest: A prompt fills the whole context; `where` says which, counted from 0.
        """
        with self._adapters.use(adapter) as loaded:
            rows = [self._row(messages, loaded, sampling, n) for n, messages in enumerate(prompts)]
            forward = self._forward(loaded)
            prefix = self._shared(forward, rows)
            done = 0
            for part in batches(rows, batch):
                for _ in self._decode(forward, part, prefix):
                    pass
                done += len(part)
                if progress:
                    progress(done)
        return [_completion(row) for row in rows]

    def stream(
        self, messages: Messages, *, adapter: str | None, sampling: Sampling, choices: int = 1
    ) -> Generator[Delta, None, None]:
        """Answer one prompt, a token at a time. Closing the generator stops the work with the step that is running.

        Args:
            messages: The conversation.
            adapter: Name of a loaded adapter; None is the base.
            sampling: How tokens are chosen.
            choices: Answers made side by side; `Delta.index` tells them apart.

        Raises:
            NotFound: No adapter of this name is loaded (with the first token, as all of these).
            InvalidRequest: The prompt fills the whole context.
        """
        with self._adapters.use(adapter) as loaded:
            rows = [self._row(messages, loaded, sampling, n, choice=n) for n in range(choices)]
            forward = self._forward(loaded)
            for step in self._decode(forward, rows, self._shared(forward, rows)):
                for row, piece in step:
                    yield Delta(piece, row.finish_reason, len(row.prompt), row.generated, row.index, row.told)

    @contextmanager
    def using(self, adapter: str | None) -> Iterator[None]:
        """Hold `base.model` with an adapter switched on, for forward passes of one's own; other threads wait.

        Raises:
            NotFound: No adapter of this name is loaded.
        """
        with self._adapters.use(adapter) as loaded, self._adapters.lock:
            self._adapters.activate(loaded)
            yield

    def _row(self, messages: Messages, loaded: Loaded | None, sampling: Sampling, index: int, choice: int = 0) -> Row:
        turns = [{"role": turn["role"], "content": turn["content"]} for turn in messages]
        if loaded and loaded.manifest.system and (not turns or turns[0]["role"] != "system"):
            turns.insert(0, {"role": "system", "content": loaded.manifest.system})
        prompt = render(self.base.tokenizer, turns, True)
        if len(prompt) >= self.context:
            raise InvalidRequest(
                f"The prompt has {len(prompt)} tokens; the context of {self.base.entry_id} is {self.context}.",
                where=f"messages of prompt {index}",
                remedy="Shorten it.",
            )
        limit = min(sampling.max_tokens, self.context - len(prompt))
        text = TextStream(lambda ids: answer_text(self.base.tokenizer, ids), sampling.stop)
        constraint = None if sampling.schema is None else self.grammars.constraint(sampling.schema)
        return Row(index, prompt, limit, Chooser(sampling, choice, constraint), text)

    def _forward(self, loaded: Loaded | None) -> Forward:
        """The model as the decode loop sees it; every step makes sure that its own adapter is the active one."""

        def forward(
            ids: torch.Tensor, mask: torch.Tensor, positions: torch.Tensor, cache: DynamicCache
        ) -> torch.Tensor:
            with self._adapters.lock, torch.inference_mode():
                self._adapters.activate(loaded)
                output = self.base.model(
                    input_ids=ids,
                    attention_mask=mask,
                    position_ids=positions,
                    past_key_values=cache,
                    use_cache=True,
                    logits_to_keep=1,
                )
                logits: torch.Tensor = output.logits[:, -1]
                return logits

        return forward

    def _decode(self, forward: Forward, rows: Sequence[Row], prefix: Prefix | None) -> Iterator[list[tuple[Row, str]]]:
        return decode(forward, rows, stop_ids=self.base.stop_ids, device=self.device, prefix=prefix)

    def _shared(self, forward: Forward, rows: Sequence[Row]) -> Prefix | None:
        if len(rows) < 2 or not self._may_share:
            return None
        length = common_prefix([row.prompt for row in rows])
        return prefill(forward, rows[0].prompt[:length], self.device) if length >= SHORTEST_PREFIX else None

    def _check_canary(self, loaded: Loaded) -> None:
        """An adapter that changes nothing is one that silently was not applied (peft#2115, vllm#48019)."""
        turns = [{"role": "system", "content": loaded.manifest.system}] if loaded.manifest.system else []
        prompt = render(self.base.tokenizer, [*turns, {"role": "user", "content": "Good morning!"}], True)
        ids = torch.tensor([prompt], device=self.device)
        positions = torch.arange(len(prompt), device=self.device)[None]
        base, tuned = (
            self._forward(subject)(ids, torch.ones_like(ids), positions, DynamicCache()) for subject in (None, loaded)
        )
        if not bool(tuned.isfinite().all()):
            raise IntegrityError(
                "The adapter's logits are not finite.", where=str(loaded.path), remedy="Tune it again."
            )
        if torch.equal(base, tuned):
            what = "The adapter does not change what the base says."
            raise IntegrityError(what, where=str(loaded.path), remedy="Tune it again, with more steps.")


def _completion(row: Row) -> Completion:
    assert row.finish_reason is not None
    return Completion(row.text.text, tuple(row.ids), row.finish_reason, len(row.prompt), row.generated)
