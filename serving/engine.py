"""The text engine: one base, any number of adapters in one batch, one decode loop. No server, no threads of its own.

    submit -> step, step, step -> news of the rows

`generate`, `stream` and `score` are the loop run to its end for those who wait on the spot.
"""

import math
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch

from moatelier.contracts import AdapterManifest
from moatelier.errors import IntegrityError, InvalidRequest
from moatelier.settings import settings
from modalities.bundle import open_bundle
from modalities.machine import DTYPES, probe_precision
from modalities.text.model import TextBase, load_base
from modalities.text.template import answer_text, render
from serving.adapter_files import read_weights
from serving.adapters import Adapters, Loaded
from serving.batch import Passes
from serving.constrained import Grammars
from serving.kv import Blocks, Chain
from serving.linear import ServingPrecision
from serving.llama import SITES, Llama
from serving.loop import Loop
from serving.lora import invoked_at
from serving.memory import Memory, return_to_system
from serving.room import Rooms, Shape
from serving.row import Completion, Delta, Lane, Prompt, Row, completion
from serving.sampling import Chooser, Sampling
from serving.sharing import Sharing
from serving.textstream import TextStream
from serving.turns import prompt_ids
from serving.whole import TextWeights, is_whole, read_whole

__all__ = ["Completion", "Delta", "Messages", "Sampling", "TextEngine"]

FUSED = tuple(name for names in SITES.values() for name in names)

Messages = Sequence[Mapping[str, str]]
"""A conversation: {"role", "content"} each, the system message first if there is one."""


class TextEngine:
    """Generates with a base and its adapters. Not for several threads: `serving.driver` has one for it.

    Args:
        base_id: A catalogue id; the base must have been pulled.
        precision: Of the linear layers; None takes the setting, `auto` is bf16 where the machine is fast at it.
        memory_gb: For rows, cached blocks and adapters together; None takes the setting. In int8 and int4 up to a
            quarter of it goes to a copy of the layers in bfloat16 for reading prompts, where the machine is fast at it.
        share: Whether requests that begin alike share what has been computed.

    Raises:
        ModelUnavailable: The base has not been pulled, or the machine has no kernels for the precision.
    """

    def __init__(
        self,
        base_id: str,
        precision: ServingPrecision | Literal["auto"] | None = None,
        memory_gb: float | None = None,
        share: bool = True,
    ) -> None:
        wished = precision or settings().precision
        # What is rounded to few bits is rounded from the full weights.
        base = load_base(base_id, "fp32" if wished == "int8" or wished == "int4" else wished)
        self._shapes = {
            name: tuple(base.model.get_decoder().layers[0].get_submodule(name).weight.shape) for name in FUSED
        }
        self.precision: ServingPrecision = base.precision if wished == "auto" else wished
        computed = base.precision if self.precision == base.precision else probe_precision()
        self.memory = Memory(int((memory_gb or settings().engine_memory_gb) * 1e9))
        wide = computed == "bf16" and self.precision != "bf16" and self._take_copies(base.config.layers)
        self.model = Llama(base.model, self.precision, DTYPES[computed], base.config.context, wide)
        self.device, self.context = self.model.device, base.config.context
        self.base: TextBase = replace(base, model=None)
        self.boundary = base.first_layer_default
        self.blocks = Blocks(self.memory, enabled=share)
        self.passes = Passes(self.model, self.boundary)
        self._adapters: Adapters[TextWeights] = Adapters(
            self.memory, self._read, self.passes.forget, self._check_canary
        )
        self._loop = Loop(
            base.stop_ids,
            rooms=Rooms(self._shape(), self.memory),
            sharing=Sharing(self.blocks, self.boundary),
            adapters=self._adapters,
            passes=self.passes,
        )
        self.scheduler = self._loop.scheduler
        self.step, self.cancel = self._loop.step, self._loop.cancel
        self.grammars = Grammars(self.base.tokenizer, self.base.stop_ids)
        del base
        return_to_system()  # what the weights were read into and converted from

    # ---------------------------------------------------------------------------------------------------- adapters

    @property
    def adapters(self) -> dict[str, AdapterManifest]:
        """Loaded adapters by name."""
        return self._adapters.manifests

    def load_adapter(self, name: str, bundle: Path, pinned: bool = False) -> AdapterManifest:
        """Verify a sealed bundle and load it under a name. The same bundle again changes nothing.

        Args:
            name: What requests will call it.
            bundle: Its folder.
            pinned: Never evict its weights.

        Raises:
            NotFound: There is no bundle in the folder.
            IntegrityError: Changed bytes, another base, template or stop tokens, weights that do not fit, or an
                adapter that does not change what the base says.
            Conflict: The name stands for another bundle.
            ResourceExhausted: Memory has no room for it.
        """
        return self._adapters.add(name, bundle, pinned).manifest

    def renew_adapter(self, name: str, bundle: Path) -> None:
        """As `load_adapter`, but for an adapter in training, in place of what it was before; raises as that does."""
        self._adapters.renew(name, bundle)

    def unload_adapter(self, name: str) -> None:
        """Forget an adapter. Answers it is in the middle of are finished with it.

        Raises:
            NotFound: No adapter of this name is loaded.
        """
        self._adapters.remove(name)

    # -------------------------------------------------------------------------------------------------- answers

    def submit(
        self,
        messages: Messages,
        *,
        adapters: Sequence[str | None],
        sampling: Sampling,
        choices: int = 1,
        scored: int | None = None,
        flow: str = "",
        asked: float | None = None,
    ) -> list[Row]:
        """Let a request wait for its turn.

        Args:
            messages: The conversation.
            adapters: Names of loaded adapters, None is the base. Several decide each token together.
            sampling: How tokens are chosen.
            choices: Answers made side by side, a row each.
            scored: Tell the log probability of each prompt token, with so many alternatives.
            flow: Who asks; requests of all flows, by adapter, take turns.
            asked: When, in seconds of the monotonic clock, for its deadline; default: now.

        Raises:
            NotFound: No adapter of this name is loaded.
            InvalidRequest: The prompt fills the whole context.
        """
        prompts = [self._prompt(messages, self._subject(name)) for name in adapters]
        return self.enter(
            prompts, adapters=adapters, sampling=sampling, choices=choices, scored=scored, flow=flow, asked=asked
        )

    def enter(
        self,
        prompts: Sequence[Prompt],
        *,
        adapters: Sequence[str | None],
        sampling: Sampling,
        choices: int = 1,
        scored: int | None = None,
        told_from: int = 1,
        limit: int | None = None,
        flow: str = "",
        asked: float | None = None,
    ) -> list[Row]:
        """As `submit`, for prompts that have been made: one for each adapter. Raises NotFound.

        `told_from` is the first token that is scored; a limit of 0 asks for no answer.
        """
        loaded = [self._subject(name) for name in adapters]
        since = time.monotonic() if asked is None else asked
        deadline = None if sampling.deadline_s is None else since + sampling.deadline_s
        turns_of = f"{flow} {list(adapters)}"
        return self._queue(
            [
                self._row(prompts, loaded, sampling, n, scored, told_from, limit, turns_of, deadline)
                for n in range(choices)
            ]
        )

    def generate(
        self,
        prompts: Sequence[Messages],
        *,
        adapter: str | None,
        sampling: Sampling,
        progress: Callable[[int], None] | None = None,
    ) -> list[Completion]:
        """Answer many prompts, in their order. In float32 the tokens are those of one prompt at a time.

        Args:
            prompts: Conversations to be answered.
            adapter: Name of a loaded adapter; None is the base.
            sampling: The same for all.
            progress: Called with the number of answers so far whenever it has grown; may raise to stop.

        Raises:
            NotFound: No adapter of this name is loaded.
            InvalidRequest: A prompt fills the whole context; `where` says which, counted from 0.
        """
        loaded = self._subject(adapter)
        ids = [self._prompt(messages, loaded, n) for n, messages in enumerate(prompts)]
        rows = self._queue([self._row([prompt], [loaded], sampling) for prompt in ids])
        self.finish(rows, progress)
        return [completion(row) for row in rows]

    def finish(self, rows: Sequence[Row], progress: Callable[[int], None] | None = None) -> None:
        """Take steps until these rows are over; raises what one of them fails with, and cancels the others."""
        done = 0
        try:
            while any(not row.over for row in rows):
                self.step()
                if error := next((row.error for row in rows if row.error), None):
                    raise error
                now = sum(row.over for row in rows)
                if progress and now > done:
                    progress(now)
                done = now
        finally:
            for row in rows:
                self.cancel(row)

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
        rows = self.submit(messages, adapters=[adapter], sampling=sampling, choices=choices)
        try:
            while any(not row.over or row.news for row in rows):
                if not any(row.news for row in rows):
                    self.step()
                for row in rows:
                    while row.news:
                        yield row.news.popleft()
                    if row.error:
                        raise row.error
        finally:
            for row in rows:
                self.cancel(row)

    def score(self, rows: Sequence[Sequence[int]], *, adapter: str | None) -> list[list[float]]:
        """The log probability of every token but the first of each row of ids, in nats.

        Raises:
            NotFound: No adapter of this name is loaded.
            InvalidRequest: A row is empty or longer than the context.
        """
        loaded = self._subject(adapter)
        for n, ids in enumerate(rows):
            if not 0 < len(ids) <= self.context:
                raise InvalidRequest(f"The row has {len(ids)} tokens; the context is {self.context}.", where=f"row {n}")
        made = self._queue([self._row([Prompt(ids)], [loaded], Sampling(1), scored=0, limit=0) for ids in rows])
        self.finish(made)
        return [[told.logprob for told in row.prompt_told] for row in made]

    def logits(self, ids: Sequence[int], *, adapter: str | None) -> torch.Tensor:
        """Logits `[tokens, vocabulary]` in float32 after each token, computed alone and without any cache.

        Raises:
            NotFound: No adapter of this name is loaded.
        """
        loaded = self._subject(adapter)
        lane = self._lane(Prompt(ids), loaded)
        if loaded:
            self._adapters.hold(loaded)
        try:
            with torch.inference_mode():
                lane.seat = Rooms(self._shape(), Memory(2**62)).enter(len(ids))
                return self.passes.logits(self.passes.forward([], [], [(lane, len(ids))]), [lane] * len(ids))
        finally:
            if loaded:
                self._adapters.release(loaded)

    def invocation(self, adapter: str | None) -> tuple[int, ...]:
        """The tokens that activate an adapter; none for the base and for an adapter that always acts.

        Raises:
            NotFound: No adapter of this name is loaded.
        """
        loaded = self._subject(adapter)
        return loaded.invocation if loaded else ()

    def rest(self) -> None:
        """Nobody has asked for a while: let go of computed prompts, and of what memory they leave."""
        self.blocks.clear()
        return_to_system()

    # ------------------------------------------------------------------------------------------------- a request

    def _subject(self, name: str | None) -> Loaded[TextWeights] | None:
        """The adapter of this name; None is the base."""
        return None if name is None else self._adapters.get(name)

    def _prompt(self, messages: Messages, adapter: Loaded[TextWeights] | None, index: int = 0) -> Prompt:
        system = adapter.manifest.system if adapter else ""
        turns = [{"role": turn["role"], "content": turn["content"]} for turn in messages]
        return Prompt(prompt_ids(self.base, turns, system, index))

    def _queue(self, rows: list[Row]) -> list[Row]:
        """Let rows wait that have all been made: a request that cannot be made whole leaves nothing behind."""
        for row in rows:
            self._loop.add(row)
        return rows

    def _row(
        self,
        prompts: Sequence[Prompt],
        adapters: Sequence[Loaded[TextWeights] | None],
        sampling: Sampling,
        choice: int = 0,
        scored: int | None = None,
        told_from: int = 1,
        limit: int | None = None,
        flow: str = "",
        deadline: float | None = None,
    ) -> Row:
        longest = max(len(prompt.ids) for prompt in prompts)
        limit = min(sampling.max_tokens, self.context - longest) if limit is None else limit
        constraint = None if sampling.schema is None else self.grammars.constraint(sampling.schema)
        text = TextStream(lambda ids: answer_text(self.base.tokenizer, ids), sampling.stop)
        lanes = tuple(self._lane(*pair) for pair in zip(prompts, adapters, strict=True))
        chooser = Chooser(sampling, choice, constraint)
        return Row(choice, lanes, len(prompts[0].ids), limit, chooser, text, flow, scored, deadline, told_from)

    def _lane(self, prompt: Prompt, adapter: Loaded[TextWeights] | None) -> Lane:
        base, ids, inset = self.base.digest, list(prompt.ids), prompt.inset
        if adapter is None:
            return Lane(None, ids, 0, Chain("lower", base), Chain("upper", base))
        lower = base if adapter.first_layer >= self.boundary else adapter.digest
        if inset is not None:
            shown = Chain("upper", f"{adapter.digest}:{inset.digest}", adapter.digest, inset.place)
            return Lane(adapter, ids, 0, Chain("lower", lower), shown, inset=inset)
        switch = invoked_at(ids, adapter.invocation)
        upper = Chain("upper", adapter.digest, base, switch)
        return Lane(adapter, ids, switch, Chain("lower", lower, base, switch), upper)

    # ------------------------------------------------------------------------------------------------- adapters

    def _read(self, folder: Path) -> tuple[AdapterManifest, TextWeights]:
        manifest = open_bundle(folder, base_digest=self.base.digest, template_digest=self.base.template_digest)
        if set(manifest.stop_ids) != set(self.base.stop_ids):
            what = f"The adapter was tuned to stop at tokens {manifest.stop_ids}, not {self.base.stop_ids}."
            raise IntegrityError(what, where=str(folder), remedy="Tune it again on this base.")
        if is_whole(folder):
            return manifest, read_whole(folder, self.model)
        layers, at = len(self.model.layers), self.model.weights_at
        return manifest, read_weights(folder, self._shapes, layers, self.model.dtype, self.device, at)

    def _check_canary(self, loaded: Loaded[TextWeights]) -> None:
        """An adapter that changes nothing is one that silently was not applied (peft#2115, vllm#48019)."""
        turns = [{"role": "system", "content": loaded.manifest.system}] if loaded.manifest.system else []
        prompt = render(self.base.tokenizer, [*turns, {"role": "user", "content": "Good morning!"}], True)
        base, tuned = (self.logits(prompt, adapter=name)[-1] for name in (None, loaded.name))
        if not bool(tuned.isfinite().all()):
            raise IntegrityError(
                "The adapter's logits are not finite.", where=str(loaded.path), remedy="Tune it again."
            )
        if torch.equal(base, tuned):
            what = "The adapter does not change what the base says."
            raise IntegrityError(what, where=str(loaded.path), remedy="Tune it again, with more steps.")

    def _take_copies(self, layers: int) -> bool:
        """Whether a quarter of the memory holds the layers in bfloat16 too: then it is taken for them."""
        size = layers * sum(2 * math.prod(shape) for shape in self._shapes.values())
        return size <= self.memory.limit // 4 and self.memory.take(size)

    def _shape(self) -> Shape:
        model = self.model
        width = self.base.config.hidden
        return Shape(len(model.layers), model.kv_heads, model.head_width, width, model.dtype, model.device)
