"""How the next token is chosen: greedily or at random, within the likeliest, within a schema; and how likely it was."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from moatelier.errors import InvalidRequest
from serving.constrained import Constraint, check

MAX_STOPS = 16
MAX_LOGPROBS = 20
LEAST_LOGPROB = -9999.0
"""What the dialect says of a token that is as good as impossible; JSON has no infinity."""
GREEDY_BELOW = 1e-5
"""A temperature so low is greedy: dividing by it overflows."""
HEAD = 1024
"""So many of the likeliest tokens are looked at first for `top_p`; sorting a whole vocabulary takes milliseconds."""


@dataclass(frozen=True)
class Sampling:
    """What a request asks of the decode loop.

    Args:
        max_tokens: Upper bound of generated tokens; the rest of the context bounds it too.
        temperature: 0 is greedy, which is what evaluation uses and what a gate certifies.
        top_p: Sample only among the likeliest tokens that together reach this probability (arXiv 1904.09751), within
            `top_k`.
        seed: Equal seeds give equal answers to equal prompts, whatever else is in the batch. None is random.
        stop: Strings that end the answer; they are not part of it.
        top_k: Sample only among so many of the likeliest tokens; 0 is all.
        logprobs: None for none; else the log probability of every token, and so many alternatives to it.
        schema: A JSON schema, as JSON text, that the answer satisfies unless it is cut off.
        deadline_s: The answer must have ended so many seconds after it was asked for.

    Raises:
        InvalidRequest: For a value out of range; `where` names the field, for a schema `response_format`.
    """

    max_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    top_k: int = 0
    logprobs: int | None = None
    schema: str | None = None
    deadline_s: float | None = None

    def __post_init__(self) -> None:
        if self.max_tokens < 1:
            raise InvalidRequest("max_tokens must be at least 1.", where="max_tokens")
        if not 0 <= self.temperature <= 2:
            raise InvalidRequest("temperature must be between 0 and 2.", where="temperature")
        if not 0 < self.top_p <= 1:
            raise InvalidRequest("top_p must be above 0 and at most 1.", where="top_p")
        if len(self.stop) > MAX_STOPS or not all(self.stop):
            raise InvalidRequest(f"stop takes at most {MAX_STOPS} strings, none of them empty.", where="stop")
        if self.top_k < 0:
            raise InvalidRequest("top_k must be at least 1, or 0 for all tokens.", where="top_k")
        if self.logprobs is not None and not 0 <= self.logprobs <= MAX_LOGPROBS:
            raise InvalidRequest(f"logprobs must be between 0 and {MAX_LOGPROBS}.", where="logprobs")
        if self.deadline_s is not None and not self.deadline_s > 0:
            raise InvalidRequest("deadline_s must be above 0.", where="deadline_s")
        if self.schema is not None:
            check(self.schema)

    @property
    def greedy(self) -> bool:
        """No randomness."""
        return self.temperature < GREEDY_BELOW


@dataclass(frozen=True)
class TokenLogprob:
    """How likely a token was to the model: before temperature, `top_p`, `top_k` and schema."""

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()
    """The likeliest tokens with their log probabilities, likeliest first."""


@dataclass(frozen=True)
class Choice:
    """The next token of a row, with its log probability where that was asked for."""

    token: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()
    error: InvalidRequest | None = None
    """The row's schema led nowhere: end the row with this error. The others of the batch are well."""

    @property
    def told(self) -> tuple[TokenLogprob, ...]:
        """What a delta says of the token: nothing when nothing was asked for."""
        return () if self.logprob is None else (TokenLogprob(self.token, self.logprob, self.top),)


class Chooser:
    """Chooses the tokens of one row, with randomness of its own so that its batch does not matter.

    Args:
        sampling: What was asked.
        choice: Which of `n` answers to one prompt this is; each has its own random numbers.
        constraint: What holds the answer to `sampling.schema`; one of its own for each row.
    """

    def __init__(self, sampling: Sampling, choice: int = 0, constraint: Constraint | None = None) -> None:
        assert (constraint is None) == (sampling.schema is None), "a schema needs a constraint"
        self.sampling, self.constraint = sampling, constraint
        self._random = torch.Generator()
        if sampling.seed is None:
            self._random.seed()
        else:
            self._random.manual_seed((sampling.seed + choice) % 2**63)

    def __call__(self, logits: torch.Tensor) -> Choice:
        """The next token for logits `[vocabulary]`."""
        return choose(logits[None], [self])[0]

    @property
    def ended(self) -> bool:
        """The schema is satisfied and leaves nothing to say; the row may end without a stop token."""
        return self.constraint is not None and self.constraint.ended

    @property
    def likeliest(self) -> bool:
        """Takes whatever is likeliest, with nothing forbidden."""
        return self.sampling.greedy and self.constraint is None

    def pick(self, logits: torch.Tensor) -> int:
        """A token for logits `[vocabulary]` in memory, in float32, and the constraint's next state."""
        if self.constraint:
            logits = self.constraint.mask(logits)
        token = int(logits.argmax()) if self.sampling.greedy else self._draw(logits)
        if self.constraint:
            self.constraint.accept(token)
        return token

    def _draw(self, logits: torch.Tensor) -> int:
        lowest = torch.finfo(logits.dtype).min
        logits = logits.nan_to_num(nan=lowest)  # a broken model must not break the batch
        chances = torch.softmax((logits - logits.max()) / self.sampling.temperature, dim=-1)
        chances, tokens = _within(chances, self.sampling.top_k, self.sampling.top_p)
        mass = chances.cumsum(-1, dtype=torch.float64)
        # In (0, mass], so that what is found always has a chance above 0.
        point = (1 - torch.rand((), generator=self._random, dtype=torch.float64)) * mass[-1]
        place = int(torch.searchsorted(mass, point))
        return place if tokens is None else int(tokens[place])


def choose(logits: torch.Tensor, choosers: Sequence[Chooser]) -> list[Choice]:
    """The next token of every row for logits `[rows, vocabulary]`. A row never depends on its neighbours."""
    tokens: list[int] = logits.float().argmax(-1).tolist()  # one transfer from the device, not one a row
    choosing = [n for n, chooser in enumerate(choosers) if not chooser.likeliest]
    for n, row in zip(choosing, logits[choosing].float().cpu() if choosing else (), strict=True):
        tokens[n] = choosers[n].pick(row)
    choices = [Choice(token, error=_error(chooser)) for token, chooser in zip(tokens, choosers, strict=True)]
    asking = [n for n, chooser in enumerate(choosers) if chooser.sampling.logprobs is not None]
    if asking:
        tops = [choosers[n].sampling.logprobs or 0 for n in asking]
        known = likelihoods(logits[asking], [tokens[n] for n in asking], tops)
        for n, told in zip(asking, known, strict=True):
            choices[n] = Choice(told.token, told.logprob, told.top, choices[n].error)
    return choices


def likelihoods(logits: torch.Tensor, tokens: Sequence[int], tops: Sequence[int]) -> list[TokenLogprob]:
    """Log probabilities in float32 of one token a row, and of the row's likeliest.

    Args:
        logits: The model's own, `[rows, vocabulary]`.
        tokens: One a row.
        tops: How many of the likeliest each row wants, at most `MAX_LOGPROBS`.
    """
    known = torch.log_softmax(logits.float(), dim=-1).nan_to_num(nan=LEAST_LOGPROB).clamp(min=LEAST_LOGPROB)
    chosen = known.gather(-1, torch.tensor(tokens, device=logits.device)[:, None])[:, 0].tolist()
    if not any(tops):
        return [TokenLogprob(token, logprob) for token, logprob in zip(tokens, chosen, strict=True)]
    # Always as many: among equals, which come first may depend on how many are asked for, hence on the neighbours.
    best = known.topk(min(MAX_LOGPROBS, known.shape[-1]), dim=-1)
    rows = zip(tokens, chosen, best.indices.tolist(), best.values.tolist(), tops, strict=True)
    return [
        TokenLogprob(token, logprob, tuple(zip(others[:top], values[:top], strict=True)))
        for token, logprob, others, values, top in rows
    ]


def _error(chooser: Chooser) -> InvalidRequest | None:
    return chooser.constraint.error if chooser.constraint else None


def _within(chances: torch.Tensor, top_k: int, top_p: float) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The chances `[tokens]` that may be drawn, and which tokens they are; None where they are all, in order."""
    if top_k == 0 and top_p == 1:
        return chances, None
    likeliest, tokens = chances.topk(min(top_k or HEAD, len(chances)))
    total = float(likeliest.sum()) if top_k else 1.0
    if top_k == 0 and float(likeliest.sum()) < top_p:
        likeliest, tokens = chances.sort(descending=True)
    before = likeliest.cumsum(-1) - likeliest
    # The likeliest token itself always stays.
    return likeliest.masked_fill(before >= top_p * total, 0), tokens
