"""What an adapter is taught to tell of a recording: its words, or its class."""

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from moatelier.errors import DataError
from modalities.audio.classifier import Classifier
from modalities.audio.encoder import run_encoder
from modalities.audio.model import AudioBase
from modalities.audio.rows import AudioRow
from modalities.audio.teaching import head_of, lesson, trained_states
from training.loss import frozen_head_loss


class Telling(Protocol):
    """What is told of some rows.

    Attributes:
        model: What adapters are put into.
        units: Of each row: how many terms its loss sums.
        content: Of each row: what is told of it, as JSON.
    """

    model: Any
    units: Sequence[int]
    content: Sequence[Any]

    def loss(self, x: Tensor, samples: Tensor, rows: Sequence[int], start: int) -> Tensor:
        """The rows' losses summed.

        Args:
            x: What stands at a boundary of the encoder for each row.
            samples: How many samples each recording has, `[rows]`.
            rows: Which rows these are.
            start: The boundary, see `modalities.audio.encoder`.
        """
        ...


class Words:
    """The transcript, by teacher forcing. See `Telling`.

    Args:
        base: With the window.
        rows: With their texts.
        language: Its code, for a multilingual model.

    Raises:
        DataError: A row has no transcript, or more than is spoken in the window.
    """

    def __init__(self, base: AudioBase, rows: Sequence[AudioRow], language: str | None) -> None:
        self.model: Any = base.model
        self._head = head_of(base.model)
        self._lessons = [lesson(base, _target(row, row.text, "transcript"), language, row.place) for row in rows]
        self.units: Sequence[int] = [len(taught.trained) for taught in self._lessons]
        self.content: Sequence[Any] = [taught.ids for taught in self._lessons]

    def loss(self, x: Tensor, samples: Tensor, rows: Sequence[int], start: int) -> Tensor:
        """Cross-entropy summed over the trained tokens."""
        states = run_encoder(self.model.encoder, x, start)
        hidden, targets = trained_states(self.model, [self._lessons[row] for row in rows], states)
        return frozen_head_loss(hidden, targets, self._head)


class Classes:
    """The label, by a head on the mean of the encoder's states. See `Telling`.

    Args:
        base: With the window.
        rows: With their labels.
        labels: The classes, in the order of the head's rows.

    Raises:
        DataError: A row has a label that is none of these.
    """

    def __init__(self, base: AudioBase, rows: Sequence[AudioRow], labels: Sequence[str]) -> None:
        self.model: Any = Classifier(base.model.encoder, len(labels)).to(base.device)
        self.units: Sequence[int] = [1] * len(rows)
        told = [_target(row, row.label, "label") for row in rows]
        self.content: Sequence[Any] = told
        place = {label: number for number, label in enumerate(labels)}
        for row, label in zip(rows, told, strict=True):
            if label not in place:
                raise DataError(
                    f"The label {label!r} is none of the dataset's.",
                    where=row.place,
                    remedy="Curate the data again.",
                )
        self._targets = torch.tensor([place[label] for label in told])

    def loss(self, x: Tensor, samples: Tensor, rows: Sequence[int], start: int) -> Tensor:
        """Cross-entropy summed over the rows."""
        logits = self.model(x, samples, start)
        return cross_entropy(logits, self._targets[list(rows)].to(logits.device), reduction="sum")


def _target(row: AudioRow, found: str | None, what: str) -> str:
    if not found:
        raise DataError(f"The row has no {what}.", where=row.place, remedy="Curate the data again.")
    return found
