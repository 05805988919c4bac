"""Preferences: pairs of a chosen and a rejected answer, or answers with a thumb up or down, as an objective.

A row stands for two answers: of a pair both, of a thumb the answer and another row's answer to the same prompt, by
which KTO measures how far the model has drifted. What the methods make of the answers' likelihoods is in
`training.methods.{dpo,orpo,kto}`. TRL's trainers do the same sums (the tests compare them); docs/adr/0009 says why the
loop is ours.
"""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from moatelier.contracts import DatasetCard, SplitName, TrainSpec
from moatelier.errors import DataError
from moatelier.ids import digest_json
from moatelier.job import Job
from modalities.text.model import TextBase, load_base
from training import methods
from training.batches import MICRO_TOKENS, Example
from training.text import encode, preflight_rows
from training.tuned import Tuned

Rows = Sequence[dict[str, Any]]


def prepare(spec: TrainSpec, card: DatasetCard, rows: Mapping[str, Rows], job: Job) -> "PreferenceObjective":
    """Everything up to the first step: rows as tokens, checked; the reference asked; fresh adapters attached.

    Raises:
        DataError: The rows are no preferences, or cannot be trained on.
        Cancelled: The job was asked to stop.
        ResourceExhausted: The time limit was used up before the first step.
    """
    base = load_base(spec.base, spec.precision)
    make = thumbs if methods.load(spec, "text").THUMBS else pairs
    train, dev = (make(base, split, rows[split]) for split in ("train", "dev"))
    preflight_rows(base, spec, train, dev, job)
    good = [bool(row.get("good", True)) for split in ("train", "dev") for row in rows[split]]
    return PreferenceObjective(spec, base, [*train, *dev], good, len(rows["train"]), system(rows["train"]), job)


class PreferenceObjective:
    """See `training.objective.Prepared` and `Together`.

    Args:
        spec: What to do.
        base: Loaded; it gets the adapter.
        examples: Two to each row, training rows first.
        good: Of each row whether its first answer is a good one.
        train_rows: How many of the rows are for training.
        system: The system message that prompts of this adapter start with.
        job: Told of progress; asked whether to stop.
    """

    micro, solved = MICRO_TOKENS, False

    def __init__(
        self,
        spec: TrainSpec,
        base: TextBase,
        examples: Sequence[Example],
        good: Sequence[bool],
        train_rows: int,
        system: str,
        job: Job,
    ) -> None:
        began = time.monotonic()
        self._method = methods.load(spec, "text")
        self._tuned = Tuned(spec, base, examples, system, job, referred=self._method.REFERENCE)
        self._beta = self._method.BETA if spec.beta is None else spec.beta
        self._good = torch.tensor(good, device=base.device)
        self._weigh(good[:train_rows])
        self.model = self._tuned.model
        first, second = examples[0::2], examples[1::2]
        self.sizes = [len(one.ids) + len(other.ids) for one, other in zip(first, second, strict=True)]
        self.units = [len(one.targets) if self._method.BY_TOKENS else 1 for one in first]
        self.data = digest_json([[one.ids, one.trained] for one in examples] + [list(map(int, good))])
        self.precision, self.told = base.precision, dict[str, float]()
        self._drift = torch.zeros((), device=base.device)
        self.weights, self.restore, self.files = self._tuned.weights, self._tuned.restore, self._tuned.files
        self.manifest, self.close = self._tuned.manifest, self._tuned.close
        self.seconds = time.monotonic() - began

    def _weigh(self, good: Sequence[bool]) -> None:
        """Of thumbs up and down the rarer weigh more, so that both sides weigh alike in the sum."""
        counts = Counter(good)
        even = len(good) / max(1, len(counts))
        self._weights = torch.where(self._good, even / max(1, counts[True]), even / max(1, counts[False]))

    def begin(self, step: int, rows: Sequence[int]) -> None:
        """Measure the drift by the rows' mismatched answers, where the method asks for it; see `kto`."""
        self.told = {}
        if not self._method.THUMBS:
            return
        reference = self._tuned.reference
        assert reference is not None
        with torch.no_grad():
            others = [2 * row + 1 for row in rows]
            drifts = [
                self._tuned.logprobs(piece) - reference[piece]
                for piece in (others[at : at + 16] for at in range(0, len(others), 16))
            ]
            self._drift = torch.cat(drifts).mean().clamp(min=0)
        self.told = {"drift": round(float(self._drift), 4)}

    def loss(self, rows: Sequence[int]) -> Tensor:
        """The sum of the rows' losses."""
        at = torch.tensor(rows, device=self._good.device)
        if self._method.THUMBS:
            answers = [2 * row for row in rows]
            ratios = self._tuned.logprobs(answers) - self._reference(answers)
            losses: Tensor = self._method.loss(ratios, self._good[at], self._drift, self._beta)
            return (losses * self._weights[at]).sum()
        answers = [answer for row in rows for answer in (2 * row, 2 * row + 1)]
        policy = self._tuned.logprobs(answers).view(-1, 2)
        if self._method.REFERENCE:
            losses = self._method.loss(policy - self._reference(answers).view(-1, 2), self._beta)
        else:
            losses = self._method.loss(policy, self._lengths(answers).view(-1, 2), self._beta)
        return losses.sum()

    def margins(self, rows: Sequence[int]) -> Tensor:
        """`[rows]`, by how much more the model prefers the first answer to the second than the base does, in nats."""
        answers = [answer for row in rows for answer in (2 * row, 2 * row + 1)]
        with torch.no_grad():
            ratios = (self._tuned.logprobs(answers) - self._reference(answers)).view(-1, 2)
        return ratios[:, 0] - ratios[:, 1]

    def _reference(self, answers: Sequence[int]) -> Tensor:
        assert self._tuned.reference is not None, "the method keeps no reference"
        return self._tuned.reference[torch.tensor(answers, device=self._good.device)]

    def _lengths(self, answers: Sequence[int]) -> Tensor:
        lengths = [len(self._tuned.examples[answer].targets) for answer in answers]
        return torch.tensor(lengths, device=self._good.device)


def pairs(base: TextBase, split: SplitName | str, rows: Rows) -> list[Example]:
    """Both answers of each pair, the chosen one first, as tokens of which those of the last answer are trained.

    Raises:
        DataError: A row has no rejected answer, or it is the chosen one.
    """
    both = []
    for row in rows:
        rejected = row.get("rejected")
        if not isinstance(rejected, str) or rejected == row["messages"][-1]["content"]:
            raise DataError(
                "The row has no rejected answer." if rejected is None else "The rejected answer is the chosen one.",
                where=f"{split}, row {row['row']}",
                remedy="Give every row a chosen answer and a rejected one that differ.",
            )
        other = [*row["messages"][:-1], {"role": "assistant", "content": rejected}]
        both += [row, {**row, "messages": other}]
    return [last_answer(example) for example in encode(base, split, both)]  # type: ignore[arg-type]  # only a name


def thumbs(base: TextBase, split: SplitName | str, rows: Rows) -> list[Example]:
    """Each answer, and after it the next row's answer to the same prompt.

    Raises:
        DataError: A row has no thumb, or there are fewer than two rows.
    """
    for row in rows:
        if not isinstance(row.get("good"), bool):
            raise DataError(
                "The row does not say whether its answer is good.",
                where=f"{split}, row {row['row']}",
                remedy="Give every row a prompt, an answer and true or false.",
            )
    if len(rows) == 1:
        raise DataError(f"One {split} row is too few.", where=split, remedy="Give at least two.")
    both: list[dict[str, Any]] = []
    for number, row in enumerate(rows):
        stranger = rows[(number + 1) % len(rows)]["messages"][-1]
        both += [row, {**row, "messages": [*row["messages"][:-1], stranger]}]
    return [last_answer(example) for example in encode(base, split, both)]  # type: ignore[arg-type]  # only a name


def last_answer(example: Example) -> Example:
    """The example with nothing trained but its last answer: what was said before is the prompt."""
    end = max(example.targets) + 1
    start = end
    while example.trained[start - 1]:
        start -= 1
    return replace(example, trained=tuple(start <= place < end for place in range(len(example.ids))))


def system(rows: Rows) -> str:
    """The system message that most rows start with."""
    firsts = Counter(row["messages"][0]["content"] for row in rows if row["messages"][0]["role"] == "system")
    return firsts.most_common(1)[0][0] if firsts else ""
