"""How the next token is chosen: greedily, or at random with a temperature within the likeliest mass."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from moatelier.errors import InvalidRequest

MAX_STOPS = 16


@dataclass(frozen=True)
class Sampling:
    """What a request asks of the decode loop.

    Args:
        max_tokens: Upper bound of generated tokens; the rest of the context bounds it too.
        temperature: 0 is greedy, which is what evaluation uses and what a gate certifies.
        top_p: Sample only among the likeliest tokens that together reach this probability (arXiv 1904.09751).
        seed: Equal seeds give equal answers to equal prompts, whatever else is in the batch. None is random.
        stop: Strings that end the answer; they are not part of it.

    Raises:
        InvalidRequest: For a value out of range; `where` names the field.
    """

    max_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.max_tokens < 1:
            raise InvalidRequest("max_tokens must be at least 1.", where="max_tokens")
        if not 0 <= self.temperature <= 2:
            raise InvalidRequest("temperature must be between 0 and 2.", where="temperature")
        if not 0 < self.top_p <= 1:
            raise InvalidRequest("top_p must be above 0 and at most 1.", where="top_p")
        if len(self.stop) > MAX_STOPS or not all(self.stop):
            raise InvalidRequest(f"stop takes at most {MAX_STOPS} strings, none of them empty.", where="stop")


class Chooser:
    """Chooses the tokens of one row, with randomness of its own so that its batch does not matter.

    Args:
        sampling: What was asked.
        choice: Which of `n` answers to one prompt this is; each has its own random numbers.
    """

    def __init__(self, sampling: Sampling, choice: int = 0) -> None:
        self.sampling = sampling
        self._random = torch.Generator()
        if sampling.seed is None:
            self._random.seed()
        else:
            self._random.manual_seed((sampling.seed + choice) % 2**63)

    def __call__(self, logits: torch.Tensor) -> int:
        """The next token for logits `[vocabulary]`."""
        if self.sampling.temperature == 0:
            return int(logits.argmax())
        chances = torch.softmax(logits.float().cpu() / self.sampling.temperature, dim=-1)
        likeliest, tokens = chances.sort(descending=True)
        before = likeliest.cumsum(-1) - likeliest
        likeliest[before >= self.sampling.top_p] = 0  # the likeliest token itself always stays
        return int(tokens[torch.multinomial(likeliest, 1, generator=self._random)])


def choose(logits: torch.Tensor, choosers: Sequence[Chooser]) -> list[int]:
    """The next token of every row for logits `[rows, vocabulary]`."""
    if all(chooser.sampling.temperature == 0 for chooser in choosers):
        tokens: list[int] = logits.argmax(-1).tolist()  # one transfer from the device, not one a row
        return tokens
    return [chooser(row) for chooser, row in zip(choosers, logits, strict=True)]
