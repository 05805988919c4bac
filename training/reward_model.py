"""A model that scores answers: learnt from pairs of which the first is preferred, and used as a reward.

Its bundle is a LoRA bundle with one file more, the head that turns the last layer's state into a score.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

from moatelier.contracts import DatasetCard, TrainSpec
from moatelier.errors import IntegrityError
from moatelier.ids import digest_json
from moatelier.job import Job
from modalities.bundle import WEIGHTS, bundle_folder, open_bundle, read_manifest
from modalities.text.model import TextBase, load_base
from training.batches import MICRO_TOKENS, Example
from training.inputs import Source
from training.methods import reward_model
from training.preferring import pairs, system
from training.text import encode, preflight_rows
from training.tuned import Tuned

SCORE = "score.safetensors"
"""The head's file in the bundle."""
_HEAD = "score.weight"
_AT_ONCE = 16


def prepare(
    spec: TrainSpec, card: DatasetCard, rows: Mapping[str, Sequence[dict[str, Any]]], job: Job
) -> "RewardObjective":
    """Everything up to the first step; raises as `training.preferring.prepare` does."""
    base = load_base(spec.base, spec.precision)
    train, dev = (pairs(base, split, rows[split]) for split in ("train", "dev"))
    preflight_rows(base, spec, train, dev, job)
    return RewardObjective(spec, base, [*train, *dev], system(rows["train"]), job)


class RewardObjective:
    """See `training.objective.Prepared`.

    Args:
        spec: What to do.
        base: Loaded; it gets the adapter.
        examples: Two to each row, the chosen answer first; training rows, then dev rows.
        system: The system message that prompts start with.
        job: Told of progress; asked whether to stop.
    """

    micro, solved = MICRO_TOKENS, False

    def __init__(self, spec: TrainSpec, base: TextBase, examples: Sequence[Example], system: str, job: Job) -> None:
        began = time.monotonic()
        read = [at_its_end(example) for example in examples]
        self._tuned = Tuned(spec, base, read, system, job)
        self._head = fresh_head(base)
        self.model = nn.ModuleList([self._tuned.model, self._head])
        self.sizes = [len(read[at].ids) + len(read[at + 1].ids) for at in range(0, len(read), 2)]
        self.units = [1] * len(self.sizes)
        self.data = digest_json([[example.ids, example.trained] for example in examples])
        self.precision = base.precision
        self.manifest, self.close = self._tuned.manifest, self._tuned.close
        self.seconds = time.monotonic() - began

    def loss(self, rows: Sequence[int]) -> Tensor:
        """The sum of the pairs' losses in nats."""
        return reward_model.loss(self.scores(rows)).sum()

    def scores(self, rows: Sequence[int]) -> Tensor:
        """`[rows, 2]`, of the chosen and the rejected answer."""
        states, _ = self._tuned.states([answer for row in rows for answer in (2 * row, 2 * row + 1)])
        scores: Tensor = self._head(states.float()).view(-1, 2)
        return scores

    def weights(self) -> dict[str, Tensor]:
        """The adapter's tensors and the head's."""
        return self._tuned.weights() | {_HEAD: self._head.weight.detach().cpu().contiguous()}

    def restore(self, weights: dict[str, Tensor]) -> None:
        """Put them back."""
        self._tuned.restore({name: tensor for name, tensor in weights.items() if name != _HEAD})
        with torch.no_grad():
            self._head.weight.copy_(weights[_HEAD])

    def files(self) -> dict[str, bytes]:
        """The bundle's files: PEFT's and the head."""
        return self._tuned.files() | {SCORE: bytes(save({_HEAD: self.weights()[_HEAD]}))}


class RewardModel:
    """A sealed reward model at work.

    Args:
        bundle: Its digest.
        job: Of whoever asks.

    Raises:
        NotFound: There is no such bundle.
        IntegrityError: It was changed, or is no reward model.
    """

    def __init__(self, bundle: str, job: Job) -> None:
        folder = bundle_folder(bundle)
        spec = read_manifest(folder).spec
        base = load_base(spec.base, spec.precision)
        manifest = open_bundle(folder, base_digest=base.digest, template_digest=base.template_digest)
        if SCORE not in manifest.files:
            raise IntegrityError("The bundle is no reward model.", where=bundle, remedy="Name one that is.")
        self._tuned = Tuned(spec, base, [], manifest.system, job)
        self._tuned.restore(load_file(folder / WEIGHTS))
        self._tuned.model.eval()
        self._head = fresh_head(base)
        self._head.load_state_dict({"weight": load_file(folder / SCORE)[_HEAD]})

    @torch.no_grad()
    def score(self, prompts: Sequence[Sequence[dict[str, Any]]], answers: Sequence[str]) -> list[float]:
        """The score of an answer to each conversation; differences between answers to one prompt mean something."""
        base, told = self._tuned.base, []
        made = [
            {"row": number + 1, "messages": [*prompt, {"role": "assistant", "content": answer}]}
            for number, (prompt, answer) in enumerate(zip(prompts, answers, strict=True))
        ]
        examples = [at_its_end(example) for example in encode(base, "dev", made)]
        for start in range(0, len(examples), _AT_ONCE):
            piece = examples[start : start + _AT_ONCE]
            source = Source(base, piece, self._tuned.first_layer, base.precision, cache=False)
            states, _ = self._tuned.states(range(len(piece)), source)
            told += self._head(states.float())[:, 0].tolist()
        return told

    def rate(self, prompts: Sequence[Sequence[dict[str, Any]]], answers: Sequence[str]) -> list[float]:
        """Scores between 0 and 1, by the logistic function."""
        return torch.sigmoid(torch.tensor(self.score(prompts, answers))).tolist()


def fresh_head(base: TextBase) -> nn.Linear:
    """Scores everything 0, so that the first loss is ln 2."""
    head = nn.Linear(base.config.hidden, 1, bias=False, device=base.device)
    nn.init.zeros_(head.weight)
    return head


def at_its_end(example: Example) -> Example:
    """The row up to the stop token of its last answer, and a token more for the state before it to be read at."""
    end = max(example.targets)
    ids = (*example.ids[: end + 1], example.ids[end])
    return replace(example, ids=ids, trained=(*([False] * (end + 1)), True))
