"""A text base with a fresh adapter over frozen layers: what the objectives of preferences and rewards stand on."""

import time
from collections.abc import Sequence
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from moatelier.contracts import TrainSpec
from moatelier.ids import digest_json
from moatelier.job import Job
from modalities.bundle import CONFIG, WEIGHTS
from modalities.frozen import Layers, open_states
from modalities.text.model import TextBase
from training import methods
from training.batches import Example
from training.filling import fill_progress
from training.inputs import FILL_TOKENS, Source, fill_batches
from training.loss import frozen_head_logprobs


class Tuned:
    """The model that is trained, and what its bundle holds.

    Args:
        spec: What to do.
        base: Loaded; it gets the adapter.
        examples: All answers whose likelihood will be asked for, by index; the frozen layers run once for each.
        system: The system message that prompts of this adapter start with.
        job: Told of progress; asked whether to stop.
        referred: Of these the reference's log probabilities are computed before the adapter is attached.
    """

    def __init__(
        self,
        spec: TrainSpec,
        base: TextBase,
        examples: Sequence[Example],
        system: str,
        job: Job,
        referred: bool = False,
    ) -> None:
        self._spec, self.base, self.examples, self._system = spec, base, examples, system
        self._progress = fill_progress(spec, job, time.monotonic())
        self.method = methods.load(spec, "text")
        self.first_layer = base.first_layer_default if spec.layers == "top_third" else 0
        self._head = base.model.get_output_embeddings()
        self._source = self._open() if examples else None
        self.reference = self._refer() if referred else None
        """`[examples]`, what the base alone says of each answer, in nats; None where nobody asks."""
        self.model = self.method.attach(base.model, spec, self.first_layer)

    def _open(self) -> Source:
        return Source(self.base, self.examples, self.first_layer, self.base.precision, self._progress)

    def states(self, rows: Sequence[int], source: Source | None = None) -> tuple[Tensor, Tensor]:
        """`[targets, width]` after the final norm at the places before trained tokens, and `[targets]` their ids."""
        source = source or self._source
        assert source is not None, "a tuned model without examples needs a source"
        inputs = source.inputs(rows)
        return source.tuned(inputs), inputs.targets

    def logprobs(self, rows: Sequence[int], examples: Sequence[Example] | None = None) -> Tensor:
        """`[rows]`, the log probability of each answer in nats, summed over its trained tokens.

        `examples` are others than those this began with; then the frozen layers run for them now.
        """
        chosen = self.examples if examples is None else examples
        return _sums(self.token_logprobs(rows, examples), [len(chosen[row].targets) for row in rows])

    def token_logprobs(
        self, rows: Sequence[int], examples: Sequence[Example] | None = None, temperature: float = 1.0
    ) -> Tensor:
        """`[targets]`, of each trained token, row after row, as sampled at a temperature; see `logprobs`."""
        source = None
        if examples is not None:
            source = Source(self.base, examples, self.first_layer, self.base.precision, cache=False)
        head = self._head if temperature == 1 else lambda states: self._head(states) / temperature
        return frozen_head_logprobs(*self.states(rows, source), head)

    def _refer(self) -> Tensor:
        """Once a base and set of answers, kept beside the frozen layers' output, for all trials of a search."""
        order = sorted(range(len(self.examples)), key=lambda row: (len(self.examples[row].ids), row))
        layers = Layers(
            key={
                "base": self.base.digest,
                "boundary": self.first_layer,
                "template": self.base.template_digest,
                "precision": self.base.precision,
                "device": self.base.device.type,
                "rows": digest_json([[self.examples[row].ids, self.examples[row].trained] for row in order]),
                "what": "reference log probabilities",
            },
            sizes=(1,) * len(order),
            width=1,
            dtype=torch.float32,
            batches=fill_batches([len(self.examples[row].ids) for row in order], FILL_TOKENS // 4),
        )
        compute = lambda items: self.logprobs([order[item] for item in items])[:, None]  # noqa: E731
        with open_states(layers, compute, self._progress) as states:
            told = states.read(range(len(order)))[:, 0]
        reference = torch.empty(len(order))
        reference[torch.tensor(order)] = told.cpu()
        return reference.to(self.base.device)

    def weights(self) -> dict[str, Tensor]:
        """The adapter's tensors, named as PEFT saves them."""
        weights: dict[str, Tensor] = self.method.weights(self.model)
        return weights

    def restore(self, weights: dict[str, Tensor]) -> None:
        """Put them back."""
        self.method.restore(self.model, weights)

    def files(self) -> dict[str, bytes]:
        """The bundle's files, in PEFT's format."""
        weights = save(self.weights(), metadata={"format": "pt"})
        return {CONFIG: self.method.config(self.model, self._spec.base), WEIGHTS: bytes(weights)}

    def manifest(self) -> dict[str, Any]:
        """What the base and the rows fix."""
        return {
            "base_digest": self.base.digest,
            "system": self._system,
            "template_digest": self.base.template_digest,
            "stop_ids": self.base.stop_ids,
            "first_layer": self.first_layer,
        }

    def close(self) -> None:
        """Let go of the frozen layers' cache."""
        if self._source is not None:
            self._source.close()


def _sums(values: Tensor, lengths: Sequence[int]) -> Tensor:
    """`[rows]`, the sums of consecutive parts of `values` with these lengths."""
    owner = torch.repeat_interleave(torch.tensor(lengths, device=values.device))
    return values.new_zeros(len(lengths)).index_add(0, owner, values)
