"""One answer in the making, and the lanes that compute it."""

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch

from moatelier.errors import MoatelierError
from serving.adapters import Loaded
from serving.kv import BLOCK, BlockKey, Chain
from serving.llama import Own
from serving.room import Seat
from serving.sampling import Choice, Chooser, TokenLogprob
from serving.textstream import TextStream
from serving.whole import TextWeights, own

FinishReason = Literal["stop", "length"]


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
    prompt_logprobs: tuple[TokenLogprob, ...] | None = None
    """With the first token, where they were asked for: of every token of the prompt but the first."""


@dataclass(frozen=True)
class Completion:
    """A whole answer. `ids` are its tokens without the stop token; `completion_tokens` counts that too."""

    text: str
    ids: tuple[int, ...]
    finish_reason: FinishReason
    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True)
class Inset:
    """What stands in a prompt where there are no words, such as a picture.

    Attributes:
        place: Its first token; below the boundary between the segments these tokens are read like others.
        states: `[tokens, width]`, what stands there above it.
        digest: Names the states.
    """

    place: int
    states: torch.Tensor
    digest: str

    def over(self, hidden: torch.Tensor, start: int) -> torch.Tensor:
        """The states at the boundary of the tokens from `start` on, `[tokens, width]`, with its own among them."""
        first, last = self.place - start, self.place - start + len(self.states)
        if last <= 0 or first >= len(hidden):
            return hidden
        own = self.states[max(0, -first) : len(hidden) - first]
        return torch.cat([hidden[: max(0, first)], own.to(hidden.dtype), hidden[max(0, last) :]])


@dataclass(frozen=True)
class Prompt:
    """What a lane begins with: ids, and what stands among them beside words."""

    ids: Sequence[int]
    inset: Inset | None = None


@dataclass(eq=False)
class Lane:
    """What one model, the base or an adapter, reads of a row. An ordinary row has one lane, an ensemble several.

    Attributes:
        adapter: None is the base.
        ids: The prompt and what has been generated.
        switch: The first token that the adapter computes; those before are the base's (aLoRA).
        lower, upper: Names of its blocks in the two segments.
        seat: Where its states are while it runs.
        logits: After the last token of ids, `[vocabulary]`; until the row takes them.
        inset: What stands in the prompt beside words.
    """

    adapter: Loaded[TextWeights] | None
    ids: list[int]
    switch: int
    lower: Chain
    upper: Chain
    seat: Seat | None = None
    logits: torch.Tensor | None = None
    inset: Inset | None = None

    @property
    def unread(self) -> int:
        """Tokens of ids that have not been computed in all layers."""
        return len(self.ids) - (self.seat.tokens if self.seat else 0)

    def own(self, last: int | None = None) -> Own | None:
        """What its adapter has in place of the base's; None where that is nothing below layer `last`."""
        return own(self.adapter.weights, last) if self.adapter else None

    @property
    def owner(self) -> str:
        """Names the whole weights that it runs with; empty for the base's. Its adapter is held."""
        return self.adapter.digest if self.adapter and self.own() else ""

    def making(self, tokens: int) -> set[BlockKey]:
        """Names of the blocks that computing so many more tokens makes."""
        assert self.seat is not None
        done, upto = self.seat, self.seat.tokens + tokens
        lower = self.lower.keys(self.ids, upto)[done.lower // BLOCK :]
        return {*lower, *self.upper.keys(self.ids, upto)[done.tokens // BLOCK :]}


@dataclass(eq=False)
class Row:
    """One answer in the making.

    Attributes:
        index: Which of several answers to a request.
        lanes: The models that make it; with several, the mean of their log probabilities decides.
        prompt_tokens: Of the first lane.
        limit: At most this many tokens are generated; 0 for a row that is only scored.
        flow: Who asks, with which adapter; flows take turns.
        scored: None, or how many alternatives to tell with the log probability of each prompt token.
        deadline: In seconds of the monotonic clock.
        told_from: The first token of the prompt whose log probability is told.
        arrived, began, first, last: When it came, took part in its first step, got its first and its last token; by the
            monotonic clock.
        news: What the reader has not been given yet.
    """

    index: int
    lanes: tuple[Lane, ...]
    prompt_tokens: int
    limit: int
    chooser: Chooser
    text: TextStream
    flow: str
    scored: int | None = None
    deadline: float | None = None
    told_from: int = 1
    passed: int = 0
    """How many rows have overtaken it while it waited for places."""
    read: bool = False
    """All lanes have computed all but what is being generated; from here on the row decodes."""
    ids: list[int] = field(default_factory=list)
    """Generated so far, without the stop token."""
    generated: int = 0
    """Generated so far, with the stop token."""
    prompt_told: list[TokenLogprob] = field(default_factory=list)
    news: deque[Delta] = field(default_factory=deque)
    finish_reason: FinishReason | None = None
    error: MoatelierError | None = None
    arrived: float = field(default_factory=time.monotonic)
    began: float | None = None
    first: float | None = None
    last: float | None = None

    @property
    def over(self) -> bool:
        """Nothing more will come."""
        return self.finish_reason is not None or self.error is not None

    @property
    def told(self) -> bool:
        """The log probabilities of the prompt are known, or were not asked for."""
        return self.scored is None or len(self.prompt_told) >= self.prompt_tokens - self.told_from

    @property
    def untold(self) -> int:
        """Tokens at whose places nothing has to be told."""
        return max(len(lane.ids) for lane in self.lanes) if self.told else self.told_from - 1

    @property
    def late(self) -> bool:
        """Its deadline has passed."""
        return self.deadline is not None and time.monotonic() > self.deadline

    def restart(self) -> None:
        """Its states are gone: what it has read must be read again, with what it has generated."""
        self.read = False
        if not self.generated:
            self.prompt_told.clear()

    def push(self, choice: Choice, stop_ids: tuple[int, ...]) -> None:
        """Take the next token: into the lanes, and as news for the reader."""
        if choice.error:
            self.error = choice.error
            return
        self.generated += 1
        self.last = time.monotonic()
        self.first = self.first or self.last
        for lane in self.lanes:
            lane.logits = None
            lane.ids.append(choice.token)
        told = () if choice.token in stop_ids else choice.told
        piece = self._take(choice.token, stop_ids)
        prompt = tuple(self.prompt_told) if self.scored is not None and self.generated == 1 else None
        self.news.append(Delta(piece, self.finish_reason, self.prompt_tokens, self.generated, self.index, told, prompt))

    def _take(self, token: int, stop_ids: tuple[int, ...]) -> str:
        """The text that became certain by a token."""
        if token in stop_ids:
            self.finish_reason = "stop"
            return self.text.finish()
        self.ids.append(token)
        piece = self.text.push(token)
        if self.text.stopped:
            self.finish_reason = "stop"
        elif self.chooser.ended or self.generated >= self.limit:
            piece += self.text.finish()
            self.finish_reason = "stop" if self.text.stopped or self.chooser.ended else "length"
        return piece


def completion(row: Row) -> Completion:
    """The whole answer of a row that has ended well."""
    assert row.finish_reason is not None
    return Completion(row.text.text, tuple(row.ids), row.finish_reason, row.prompt_tokens, row.generated)
