"""What each method's first trial starts with, and which changes later trials may make to it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Start:
    """A method's usual spec.

    Attributes:
        epochs: At least so many, if time allows.
        batch_rows: Of a step; half of it where rows are few.
        learning_rate: Of the first trial.
        rank: Of low-rank adapters; 1 where there are none.
        alpha: Their scale.
        layers: Which part of the model is tuned.
        unfit: Names of registered changes that have no meaning here.
        whole: Weights that have a value already are tuned; few rows are no reason for a higher rate.
        high_loss: A training loss above this has not been fitted, in nats a trained token, row or pair.
    """

    epochs: float
    batch_rows: int
    learning_rate: float
    rank: int
    alpha: float
    layers: Literal["top_third", "all"]
    unfit: frozenset[str] = frozenset()
    high_loss: float = 0.5
    whole: bool = False


_MEDIA = {"more_pixels", "augment"}
_WHOLE = frozenset({"more_rank", "dropout", *_MEDIA})
STARTS: Mapping[str, Start] = {
    "lora": Start(3.0, 16, 1e-3, 16, 32.0, "top_third", frozenset({"decay", *_MEDIA})),
    "alora": Start(3.0, 16, 1e-3, 16, 32.0, "top_third", frozenset({"decay", *_MEDIA})),
    # Twice 64 is past what an action may ask for, and the scale stays that of the start.
    "rslora": Start(3.0, 16, 1e-3, 64, 16.0, "top_third", frozenset({"decay", "more_rank", *_MEDIA})),
    "dora": Start(3.0, 16, 1e-3, 8, 16.0, "top_third", frozenset({"decay", *_MEDIA})),
    # Weights that start from the base's own are not to be drawn to zero.
    "pissa": Start(3.0, 16, 1e-3, 16, 16.0, "top_third", frozenset({"decay", "dropout", *_MEDIA})),
    "adalora": Start(4.0, 16, 1e-2, 8, 32.0, "top_third", frozenset({"decay", "higher_rate", *_MEDIA})),
    "vera": Start(4.0, 16, 5e-2, 128, 1.0, "top_third", frozenset({"decay", "more_rank", "higher_rate", *_MEDIA})),
    # Neither rank nor dropout, and decay would draw its scales from 1 to 0.
    "ia3": Start(
        4.0, 16, 5e-2, 1, 1.0, "top_third", frozenset({"decay", "dropout", "more_rank", "higher_rate", *_MEDIA})
    ),
    "lora_fa": Start(3.0, 16, 1e-3, 16, 32.0, "top_third", frozenset({"decay", *_MEDIA})),
    "dylora": Start(4.0, 16, 2e-3, 8, 16.0, "top_third", frozenset({"decay", *_MEDIA})),
    "qlora": Start(3.0, 16, 1e-3, 16, 32.0, "top_third", frozenset({"decay", *_MEDIA})),
    # A weight has a value already: a rate that suits adapters, which begin at nothing, would wreck it.
    "full": Start(3.0, 16, 3e-4, 1, 1.0, "top_third", _WHOLE, whole=True),
    "hft": Start(3.0, 16, 3e-4, 1, 1.0, "top_third", _WHOLE, whole=True),
    # Their losses start at ln 2, at the cross-entropy of the chosen answers, and at a half.
    "dpo": Start(2.0, 16, 5e-4, 16, 32.0, "top_third", frozenset({"decay", *_MEDIA})),
    "orpo": Start(2.0, 16, 5e-4, 16, 32.0, "top_third", frozenset({"decay", *_MEDIA}), 2.5),
    "kto": Start(2.0, 16, 5e-4, 16, 32.0, "top_third", frozenset({"decay", *_MEDIA}), 0.4),
    # Their loss is what is missing from the full reward; each step samples a group of answers to each prompt.
    "grpo": Start(1.0, 8, 1e-3, 16, 32.0, "top_third", frozenset({"decay", *_MEDIA})),
    "rloo": Start(1.0, 8, 1e-3, 16, 32.0, "top_third", frozenset({"decay", *_MEDIA})),
    "top_blocks": Start(8.0, 32, 3e-4, 1, 1.0, "top_third", frozenset({"more_rank", "dropout", "augment"})),
    "image_lora": Start(8.0, 32, 1e-3, 8, 16.0, "top_third", frozenset({"augment"})),
    # Its head is computed at once: another trial would give the very same.
    "linear_probe": Start(1.0, 32, 1e-3, 1, 1.0, "top_third"),
    # Its rows are each other's wrong answers: fewer at once teach less, and a guess among 64 has a loss of 4.2.
    "contrastive": Start(8.0, 64, 1e-3, 8, 16.0, "top_third", frozenset({"augment", "smaller_batch"}), 1.5),
    # Three questions about each picture: an epoch is three looks at it.
    "llava": Start(2.0, 16, 1e-3, 16, 32.0, "top_third", frozenset({"all_layers", *_MEDIA})),
    "audio_lora": Start(3.0, 16, 1e-3, 8, 16.0, "all", frozenset({"all_layers", "more_pixels"})),
}
SOLVED = frozenset({"linear_probe"})
"""Methods whose adapter is computed at once, without steps."""
_OWN_LOSS = frozenset({"dpo", "orpo", "kto", "grpo", "rloo"})


def comparable(methods: Iterable[str]) -> tuple[str, ...]:
    """Those among which a search may choose: they take steps, and their losses on dev rows mean the same."""
    return tuple(method for method in methods if method not in SOLVED | _OWN_LOSS)


def start(method: str) -> Start:
    """A method's start; LoRA's for one that is not known here."""
    return STARTS.get(method, STARTS["lora"])
