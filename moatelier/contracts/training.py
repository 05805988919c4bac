"""One adapter: what determines it, what it is, how its training went."""

from typing import Literal

from pydantic import Field

from moatelier.contracts.base import Contract, Kind


class TrainSpec(Contract):
    """Everything that determines a training run."""

    method: str
    base: str
    dataset: str
    """Digest of the DatasetCard."""
    suffix: str
    rank: int = Field(default=16, ge=1)
    alpha: float = 32.0
    dropout: float = Field(default=0.0, ge=0, lt=1)
    target: Literal["all-linear"] = "all-linear"
    layers: Literal["top_third", "all"] = "top_third"
    learning_rate: float = 1e-3
    epochs: float = Field(default=3.0, gt=0)
    batch_rows: int = Field(default=16, ge=1)
    warmup_ratio: float = 0.05
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    max_tokens: int = 1024
    """Longest row, prompt and answer together, in tokens."""
    checkpoint_every: int = Field(default=25, ge=1)
    """In optimiser steps."""
    max_seconds: float | None = None
    """Stop in time and seal what is there."""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    seed: int = 0
    size: int | None = Field(default=None, ge=16, le=1024, exclude_if=lambda size: size is None)
    """Pixels of either side of images; None is what the base was trained with. Left out of records where it is None,
    so that specs from before there were images keep their digests."""
    window_s: float | None = Field(default=None, gt=0, le=30, exclude_if=lambda window: window is None)
    """Seconds of a recording that are heard at once; None is what the base was trained with."""
    place: Literal["encoder", "decoder", "both"] | None = Field(default=None, exclude_if=lambda place: place is None)
    """Which half of a model of speech is tuned; None is both, or the encoder alone where classes are told."""
    augment: bool = Field(default=False, exclude_if=lambda on: not on)
    """Whether recordings are varied in speed, in noise and in their spectrum while they are trained on."""
    vision: str | None = Field(default=None, exclude_if=lambda vision: vision is None)
    """Catalogue id of the model that sees, where pictures are put before a language model."""


class AdapterManifest(Contract):
    """`manifest.json` of a sealed bundle: what training fixes, no clock times. Its digest names the bundle."""

    base: str
    base_digest: str
    modality: str
    kind: Kind
    suffix: str
    system: str
    """The system message every prompt of this adapter starts with; empty where there are no prompts."""
    template_digest: str
    """Of what turns inputs into the model's: a chat template, or an image transform."""
    stop_ids: tuple[int, ...]
    labels: tuple[str, ...]
    first_layer: int
    """The first layer that the adapter changes; below it everything is the frozen base."""
    dataset: str
    licence: str
    spec: TrainSpec
    versions: dict[str, str]
    files: dict[str, str]
    """File name -> SHA-256, for every other file in the bundle."""


class Setback(Contract):
    """What went wrong in a training and was mended by it."""

    kind: Literal["diverged", "memory"]
    """`diverged`: loss, gradients or weights were not finite; back to a checkpoint, at a third of the learning rate.
    `memory`: it ran out; smaller micro-batches of the same batch, or activations computed twice."""
    step: int
    """The step that could not be taken as it was; for an evaluation the step after it."""
    back_to: int = 0
    """`diverged`: the step of the checkpoint; 0 is the start."""
    seconds: float = 0.0
    """`diverged`: spent until then; they count in the time limit."""
    micro: int = 0
    """`memory`: the largest sum of sizes from then on, 0 where it stays."""
    moment: int = 0
    """`memory`: twice the number of whole steps, and one more in an evaluation after them."""
    recompute: bool = False
    """`memory`: activations are computed twice instead of kept."""


class TrainResult(Contract):
    """What a training job leaves in `result.json`."""

    bundle: str
    """Digest of the manifest; the bundle lies in `<home>/adapters/<digest>`."""
    steps: int
    epochs: float
    seconds: float
    """Time spent training, over all resumptions, without loading."""
    train_loss: float
    """Mean over the last tenth of the steps, per trained token."""
    dev_loss: float | None
    curve: tuple[tuple[int, float], ...]
    """(step, training loss)."""
    dev_curve: tuple[tuple[int, float], ...] = ()
    tokens: int = 0
    peak_bytes: int = 0
    stopped: Literal["finished", "out_of_time", "cancelled"] = "finished"
    """A cancelled one has sealed its best so far: the weights of `steps`, which had the lowest dev loss."""
    precision: str = "fp32"
    setbacks: tuple[Setback, ...] = Field(default=(), exclude_if=lambda setbacks: not setbacks)
    """What went wrong on the way and was mended."""
