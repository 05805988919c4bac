"""Learning by rewards: answers sampled from the adapter in training, rewarded, and made likelier or less likely.

A step samples a group of answers to each of its prompts with the embedded engine, which is given the adapter as it is
at that moment, so that prompts are read once a group and all answers are made in one batch. What the methods make of
the rewards is in `training.methods.{grpo,rloo}`. Dev rows are answered greedily; their loss is what is missing from
the full reward.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from moatelier.contracts import AdapterManifest, DatasetCard, TrainSpec
from moatelier.errors import DataError
from moatelier.ids import canonical_json, digest_bytes, digest_json
from moatelier.job import Job, write_atomically
from modalities.bundle import MANIFEST
from modalities.text.model import TextBase, load_base
from modalities.text.template import answer_text, render
from serving.engine import TextEngine
from serving.sampling import Sampling
from training.batches import MICRO_TOKENS, Example
from training.methods.lora import silenced
from training.preferring import system
from training.rewards import Reward, combine
from training.tuned import Tuned

_LIVE = "live"
"""What the engine calls the adapter in training."""


def prepare(
    spec: TrainSpec, card: DatasetCard, rows: Mapping[str, Sequence[dict[str, Any]]], job: Job
) -> "ReinforceObjective":
    """Everything up to the first step.

    Raises:
        DataError: There is nothing to ask, a prompt leaves no room for an answer, or a row lacks what a reward
            compares with.
        InvalidRequest: No reward, or one that cannot be used.
    """
    asked = [asked_of(row) for split in ("train", "dev") for row in rows[split]]
    if not rows["train"]:
        raise DataError("There are no prompts to train on.", where="train", remedy="Add rows.")
    reward = combine(spec.rewards, asked, job)
    base = load_base(spec.base, spec.precision)
    return ReinforceObjective(spec, base, asked, reward, system(rows["train"]), card, job)


@dataclass(frozen=True)
class Step:
    """What a step found out about its prompts, by row: each has as many answers.

    Attributes:
        answers: The rows' answers as examples whose answer is trained.
        rewards: `[answers]` of each row.
        gains: `[answers]` of each row, the advantages.
        reference: For each answer `[tokens]`, the base's log probabilities; None where nobody asks.
    """

    answers: dict[int, list[Example]]
    rewards: dict[int, Tensor]
    gains: dict[int, Tensor]
    reference: dict[int, list[Tensor]] | None


class ReinforceObjective:
    """See `training.objective.Prepared` and `Together`.

    Args:
        spec: What to do.
        base: Loaded; it gets the adapter.
        asked: Rows as `asked_of` gives them, training rows first.
        reward: What answers earn.
        system: The system message that prompts start with.
        card: The dataset.
        job: Its folder holds the adapter in training, for the engine.
    """

    micro, solved = MICRO_TOKENS, False

    def __init__(
        self,
        spec: TrainSpec,
        base: TextBase,
        asked: Sequence[dict[str, Any]],
        reward: Reward,
        system: str,
        card: DatasetCard | None,
        job: Job,
    ) -> None:
        began = time.monotonic()
        self._spec, self._asked, self._reward, self._card = spec, asked, reward, card
        self._folder = job.folder / _LIVE
        self._folder.mkdir(exist_ok=True)
        self._prompts = [_prompt(base, spec, row) for row in asked]
        self._tuned = Tuned(spec, base, [], system, job)
        self._engine = TextEngine(spec.base, precision=base.precision)
        self._method = self._tuned.method
        self._beta = self._method.BETA if spec.beta is None else spec.beta
        self.model = self._tuned.model
        self.sizes = [spec.group * (len(prompt) + spec.new_tokens) for prompt in self._prompts]
        self.data = digest_json([list(asked), self._prompts])
        self.precision, self.told = base.precision, dict[str, float]()
        self.weights, self.restore, self.files = self._tuned.weights, self._tuned.restore, self._tuned.files
        self.manifest, self.close = self._tuned.manifest, self._tuned.close
        self.seconds = time.monotonic() - began

    @property
    def units(self) -> list[int]:
        """An answer each: a group while training, the greedy one of a dev row."""
        return [self._spec.group if self.model.training else 1] * len(self.sizes)

    def begin(self, step: int, rows: Sequence[int]) -> None:
        """Sample, reward, compare: everything about these prompts but the gradient."""
        learning = self.model.training
        choices = self._spec.group if learning else 1
        self.model.eval()  # the reference and the engine know of no dropout
        answers, texts = self._sample(step, rows, choices, self._spec.temperature if learning else 0.0)
        asked = [self._asked[row] for row in rows for _ in range(choices)]
        earned = torch.tensor(self._reward(asked, texts)).view(-1, choices)
        shaped, reference = earned, None
        if learning and self._beta:
            reference, drift = self._refer(answers)
            shaped = earned - self._beta * drift.view(-1, choices) if self._method.PENALISES else earned
        gains = self._method.advantages(shaped) if learning else torch.zeros_like(earned)
        self._step = Step(answers, dict(zip(rows, earned, strict=True)), dict(zip(rows, gains, strict=True)), reference)
        lengths = [len(one.targets) for held in answers.values() for one in held]
        spread = float(earned.std(dim=1).mean()) if choices > 1 else 0.0
        self.told = {
            "reward": round(float(earned.mean()), 4),
            "reward_spread": round(spread, 4),
            "answer_tokens": round(sum(lengths) / len(lengths), 1),
        }
        self.model.train(learning)

    def _sample(
        self, step: int, rows: Sequence[int], choices: int, temperature: float
    ) -> tuple[dict[int, list[Example]], list[str]]:
        self._renew()
        self._engine.rest()  # a resumed run has no cached blocks either, and their bits tell on the answers
        made = []
        for row in rows:
            seed = int(digest_json([self._spec.seed, step, row])[:12], 16)
            sampling = Sampling(self._spec.new_tokens, temperature=temperature, seed=seed)
            made += self._engine.submit(
                self._asked[row]["messages"], adapters=[_LIVE], sampling=sampling, choices=choices
            )
        self._engine.finish(made)
        texts = [answer_text(self._engine.base.tokenizer, one.ids) for one in made]
        examples = []
        for number, one in enumerate(made):
            prompt, ids = self._prompts[rows[number // choices]], tuple(one.lanes[0].ids)
            examples.append(Example("sampled", ids, tuple(place >= len(prompt) for place in range(len(ids)))))
        grouped = {row: examples[at * choices : (at + 1) * choices] for at, row in enumerate(rows)}
        return grouped, texts

    def _renew(self) -> None:
        """Give the engine the adapter as it is now."""
        files = self.files()
        manifest = AdapterManifest(
            base=self._spec.base,
            modality="text",
            kind="prompts",
            suffix=_LIVE,
            labels=(),
            dataset=self._spec.dataset,
            licence="",
            spec=self._spec,
            versions={},
            files={name: digest_bytes(data) for name, data in sorted(files.items())},
            **self.manifest(),
        )
        for name, data in (*files.items(), (MANIFEST, canonical_json(manifest.model_dump(mode="json")))):
            write_atomically(Path(self._folder) / name, data)
        self._engine.renew_adapter(_LIVE, self._folder)

    def _refer(self, answers: Mapping[int, list[Example]]) -> tuple[dict[int, list[Tensor]], Tensor]:
        """The base's log probabilities of each answer's tokens, and how far each answer has drifted from it in nats."""
        reference, drifts = {}, []
        with torch.no_grad():
            for row, held in answers.items():
                lengths = [len(one.targets) for one in held]
                policy = self._logprobs(held)
                with silenced(self.model):
                    told = self._logprobs(held)
                reference[row] = list(torch.split(told, lengths))
                drifts += [float(part.sum()) for part in torch.split(policy - told, lengths)]
        return reference, torch.tensor(drifts)

    def loss(self, rows: Sequence[int]) -> Tensor:
        """The sum of the answers' losses; of dev rows what is missing from the full reward."""
        now = self._step
        if not self.model.training:
            return torch.stack([1 - now.rewards[row].sum() for row in rows]).sum()
        held = [(row, at) for row in rows for at in range(self._spec.group) if self._beta or float(now.gains[row][at])]
        if not held:  # nothing to learn: all answers to each prompt earned the same
            return sum((parameter.sum() * 0.0 for parameter in self._parameters()), torch.zeros(()))
        examples = [now.answers[row][at] for row, at in held]
        logprobs = self._logprobs(examples)
        lengths = torch.tensor([len(one.targets) for one in examples], device=logprobs.device)
        owner = torch.repeat_interleave(lengths)
        reference = torch.cat([now.reference[row][at] for row, at in held]) if now.reference else None
        gains = torch.stack([now.gains[row][at] for row, at in held]).to(logprobs.device)
        losses: Tensor = self._method.loss(logprobs, reference, gains, owner, self._beta)
        return losses.sum()

    def _logprobs(self, examples: Sequence[Example]) -> Tensor:
        return self._tuned.token_logprobs(range(len(examples)), examples, self._spec.temperature)

    def _parameters(self) -> list[Tensor]:
        return [parameter for parameter in self.model.parameters() if parameter.requires_grad]


def asked_of(row: dict[str, Any]) -> dict[str, Any]:
    """A row as it is asked: the answer that a plain row ends with is its truth."""
    messages, truth = row["messages"], row.get("truth")
    if messages and messages[-1]["role"] == "assistant":
        messages, truth = messages[:-1], messages[-1]["content"]
    return {"row": row["row"], "messages": messages, "truth": truth, "tests": row.get("tests")}


def _prompt(base: TextBase, spec: TrainSpec, row: dict[str, Any]) -> list[int]:
    ids = render(base.tokenizer, row["messages"], True)
    most = min(spec.max_tokens, base.config.context)
    if len(ids) + spec.new_tokens > most:
        raise DataError(
            f"The prompt has {len(ids)} tokens and its answer may have {spec.new_tokens}; {most} fit.",
            where=f"row {row['row']}",
            remedy="Shorten the prompt, or allow shorter answers.",
        )
    return ids
