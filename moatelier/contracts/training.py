"""One adapter: what determines it, what it is, how its training went."""

from typing import Literal, Self

from pydantic import Field, model_validator

from moatelier.contracts.base import Contract, Kind
from moatelier.contracts.graders import Operation, Similarity


class RewardSpec(Contract):
    """What an answer is rewarded for, from 0 to 1; a training may weigh several."""

    kind: Literal[
        "exact_match",
        "regex",
        "json_schema",
        "unit_test",
        "judge",
        "reward_model",
        "string_check",
        "text_similarity",
    ]
    weight: float = Field(default=1.0, gt=0)
    pattern: str = ""
    """`regex`: what the whole answer, without outer white space, must match."""
    json_schema: str = "{}"
    """`json_schema`: a JSON schema, as JSON text, that the answer satisfies."""
    seconds: float = Field(default=5.0, gt=0, le=60)
    """`unit_test`: of processor time, and of wall time thrice that."""
    memory_mb: int = Field(default=256, ge=64)
    """`unit_test`: of address space."""
    upstream: str = ""
    """`judge`: a name of `MOATELIER_UPSTREAMS`."""
    model: str = ""
    """`judge`: the model to ask there."""
    rubric: str = ""
    """`judge`: what makes an answer good, in plain words."""
    bundle: str = ""
    """`reward_model`: digest of a sealed reward model."""
    operation: Operation = Field(default="eq", exclude_if=lambda operation: operation == "eq")
    """`string_check`: how the answer compares with the row's truth."""
    measure: Similarity = Field(default="fuzzy_match", exclude_if=lambda measure: measure == "fuzzy_match")
    """`text_similarity`: how alike the answer and the row's truth are."""

    @model_validator(mode="after")
    def _complete(self) -> Self:
        needed = {"regex": "pattern", "judge": "upstream", "reward_model": "bundle"}.get(self.kind)
        if needed and not getattr(self, needed):
            raise ValueError(f"a reward of kind {self.kind!r} needs {needed!r}")
        return self


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
    schedule: Literal["cosine", "linear", "constant", "wsd", "inverse_sqrt", "cosine_restarts", "polynomial"] = "cosine"
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    """Larger gradients are scaled down to this norm; 0 is no limit."""
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
    optimizer: Literal["sgd", "adagrad", "rmsprop", "adadelta", "adam", "adamw", "adafactor", "lion", "muon"] = Field(
        default="adamw", exclude_if=lambda name: name == "adamw"
    )
    cycles: int = Field(default=3, ge=1, exclude_if=lambda cycles: cycles == 3)
    """Of `cosine_restarts`."""
    rounds: int = Field(default=1, ge=1, exclude_if=lambda rounds: rounds == 1)
    """Of Half Fine-Tuning: each trains another half of the weights."""
    noise: float = Field(default=1e-3, gt=0, exclude_if=lambda noise: noise == 1e-3)
    """How far MeZO moves the weights to measure a slope, in their own units."""
    minimise: Literal["loss", "token_errors"] = Field(default="loss", exclude_if=lambda told: told == "loss")
    """What MeZO measures; `token_errors`, the share of trained tokens that are not the likeliest, has no gradient."""
    beta: float | None = Field(default=None, ge=0, exclude_if=lambda beta: beta is None)
    """How strongly a preference method holds on to the reference: DPO's and KTO's beta, ORPO's lambda, the weight of
    the KL term of GRPO and RLOO. None is the method's default."""
    group: int = Field(default=8, ge=2, exclude_if=lambda group: group == 8)
    """GRPO and RLOO: answers sampled to each prompt."""
    new_tokens: int = Field(default=64, ge=1, exclude_if=lambda tokens: tokens == 64)
    """GRPO and RLOO: most tokens of a sampled answer."""
    temperature: float = Field(default=1.0, gt=0, le=2, exclude_if=lambda temperature: temperature == 1.0)
    """GRPO and RLOO: at which answers are sampled."""
    rewards: tuple[RewardSpec, ...] = Field(default=(), exclude_if=lambda rewards: not rewards)
    """GRPO and RLOO: what answers are rewarded for; the weighted mean counts."""
    replay: float = Field(default=0.0, ge=0, le=4, exclude_if=lambda share: not share)
    """Rows that the base writes itself for each row of the task, so that it does not unlearn what it knows."""
    data_part: float = Field(default=1.0, gt=0, le=1, exclude_if=lambda part: part == 1.0)
    """Share of the training rows that is trained on; a smaller part's rows are all in a larger one."""
    until_steps: int | None = Field(default=None, ge=1, exclude_if=lambda steps: steps is None)
    """Pause after so many of its optimiser steps, with a checkpoint from which another job may go on."""
    goes_on: str | None = Field(default=None, pattern=r"^[\w-]+$", exclude_if=lambda key: key is None)
    """Key of the paused job from whose checkpoint this one goes on, bit by bit as if there had been no pause."""

    @property
    def essence(self) -> str:
        """Digest of what is trained, whatever the jobs that do it: a paused training's checkpoints carry it."""
        if self.until_steps is None and self.goes_on is None:
            return self.digest
        return self.model_copy(update={"until_steps": None, "goes_on": None, "max_seconds": None}).digest


MixMethod = Literal[
    "cat",
    "linear",
    "svd",
    "ties",
    "ties_svd",
    "dare_linear",
    "dare_linear_svd",
    "dare_ties",
    "dare_ties_svd",
    "magnitude_prune",
    "magnitude_prune_svd",
]


class Mixing(Contract):
    """How an adapter was made of others, without training."""

    method: MixMethod
    parents: tuple[str, ...] = Field(min_length=2, max_length=16)
    """Digests of their bundles."""
    weights: tuple[float, ...]
    """One for each parent; its change of the base is multiplied by it."""
    density: float | None = Field(default=None, gt=0, le=1)
    """Share of the weights that pruning leaves; None where nothing is pruned."""
    rank: int | None = Field(default=None, ge=1, le=1024)
    """Of what the singular value decomposition leaves; None is the highest of the parents'."""
    seed: int = 0
    """Of what DARE drops."""


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
    mixing: Mixing | None = Field(default=None, exclude_if=lambda mixing: mixing is None)
    """How it was made of others; None where it was trained. `spec` and `dataset` are then the first parent's, with the
    rank that came out."""


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
    stopped: Literal["finished", "out_of_time", "paused", "cancelled"] = "finished"
    """A cancelled one has sealed its best so far: the weights of `steps`, which had the lowest dev loss."""
    precision: str = "fp32"
    loading_seconds: float = Field(default=0.0, exclude_if=lambda seconds: not seconds)
    """From the start of the last process to its first step, less what counts as training already."""
    setbacks: tuple[Setback, ...] = Field(default=(), exclude_if=lambda setbacks: not setbacks)
    """What went wrong on the way and was mended."""
