"""The registry of tuning methods: what each is called, its limits and its defaults. Imports no torch.

A method's implementation is a module loaded by its dotted path when a training uses it. It offers

    attach(model, spec, first_layer) -> model   put fresh adapters, seeded by `spec.seed`, into layers >= first_layer
    weights(model) -> dict[str, Tensor]         the adapter's tensors, named as PEFT saves them
    restore(model, weights) -> None             put them back, bit by bit
    config(model, base) -> bytes                `adapter_config.json`, the same bytes for the same training

and, where the adapter acts from certain tokens on only,

    activate_by(model, tokens) -> None          write those tokens down, so that the bundle tells

and, for text models, where it needs to,

    sealed(model) -> dict[str, Tensor]          the bundle's tensors, where these differ from `weights`
    penalty(model) -> Tensor                    added to a step's mean loss, though not to its curve
    after_step(model, step, steps) -> None      called after the optimiser's step, the gradients still there
    state(model) -> dict                        what `after_step` remembers, for checkpoints; and
    restore_state(model, state) -> None         to put it back
"""

import importlib
from types import ModuleType

from moatelier.contracts import Contract, TrainSpec
from moatelier.errors import InvalidRequest, NotFound


class MethodSpec(Contract):
    """What is known of a method without loading it."""

    name: str
    modality: str
    summary: str
    path: str
    """Dotted path of the implementation."""
    max_rank: int
    defaults: dict[str, float]
    """Fields of `TrainSpec` that suit the method."""


_registered: dict[str, MethodSpec] = {}


def register(method: MethodSpec) -> None:
    """Add a method; a second one of the same name is a programming error."""
    if method.name in _registered:
        raise ValueError(f"method {method.name!r} is registered twice: {_registered[method.name].path}, {method.path}")
    _registered[method.name] = method


def names(modality: str) -> tuple[str, ...]:
    """The modality's methods."""
    return tuple(sorted(name for name, method in _registered.items() if method.modality == modality))


def get(name: str, modality: str) -> MethodSpec:
    """A method by its name.

    Raises:
        NotFound: The modality has no such method.
    """
    method = _registered.get(name)
    if method is None or method.modality != modality:
        known = ", ".join(names(modality))
        raise NotFound(
            f"There is no method {name!r} to tune {modality} models.", where="method", remedy=f"Use one of {known}."
        )
    return method


def load(spec: TrainSpec, modality: str) -> ModuleType:
    """The implementation of the spec's method, after checking the spec against the method's limits.

    Raises:
        NotFound: The modality has no such method.
        InvalidRequest: The spec lies outside its limits.
    """
    method = get(spec.method, modality)
    if spec.rank < 1:
        raise InvalidRequest(
            f"Rank {spec.rank} would change nothing.", where="rank", remedy="Use a rank of at least 1."
        )
    if spec.rank > method.max_rank:
        raise InvalidRequest(
            f"Rank {spec.rank} is above the limit of {method.name}.",
            where="rank",
            remedy=f"Use a rank of at most {method.max_rank}.",
        )
    return importlib.import_module(method.path)


register(
    MethodSpec(
        name="lora",
        modality="text",
        summary="Low-rank adapters on the linear layers: W x + (alpha / rank) B A x.",
        path="training.methods.lora",
        max_rank=256,
        defaults={"rank": 16, "alpha": 32.0, "learning_rate": 1e-3, "epochs": 3.0, "batch_rows": 16},
    )
)

register(
    MethodSpec(
        name="alora",
        modality="text",
        summary="LoRA that acts on the answer only: the prompt is the base's, computed once for all such adapters.",
        path="training.methods.alora",
        max_rank=256,
        defaults={"rank": 16, "alpha": 32.0, "learning_rate": 1e-3, "epochs": 3.0, "batch_rows": 16},
    )
)

register(
    MethodSpec(
        name="rslora",
        modality="text",
        summary="LoRA scaled by alpha / sqrt(rank): high ranks learn as fast as low ones.",
        path="training.methods.rslora",
        max_rank=256,
        defaults={"rank": 64, "alpha": 16.0, "learning_rate": 0.001, "epochs": 3.0, "batch_rows": 16},
    )
)

register(
    MethodSpec(
        name="dora",
        modality="text",
        summary="LoRA with a magnitude of its own for every output: closer to full tuning at low ranks, slower.",
        path="training.methods.dora",
        max_rank=256,
        defaults={"rank": 8, "alpha": 16.0, "learning_rate": 0.001, "epochs": 3.0, "batch_rows": 16},
    )
)

register(
    MethodSpec(
        name="pissa",
        modality="text",
        summary="LoRA that starts from the weights' largest singular values; falls faster in few steps.",
        path="training.methods.pissa",
        max_rank=128,
        defaults={"rank": 16, "alpha": 16.0, "learning_rate": 0.001, "epochs": 3.0, "batch_rows": 16},
    )
)

register(
    MethodSpec(
        name="adalora",
        modality="text",
        summary="LoRA whose ranks go to the layers that need them.",
        path="training.methods.adalora",
        max_rank=170,
        defaults={"rank": 8, "alpha": 32.0, "learning_rate": 0.01, "epochs": 4.0, "batch_rows": 16},
    )
)

register(
    MethodSpec(
        name="vera",
        modality="text",
        summary="Two vectors a layer between random matrices that all layers share: a tenth of LoRA's parameters.",
        path="training.methods.vera",
        max_rank=1024,
        defaults={"rank": 128, "alpha": 1.0, "learning_rate": 0.05, "epochs": 4.0, "batch_rows": 16},
    )
)

register(
    MethodSpec(
        name="ia3",
        modality="text",
        summary="Keys, values and inner activations scaled: the fewest parameters, nothing to run at serving.",
        path="training.methods.ia3",
        max_rank=256,
        defaults={"rank": 1, "alpha": 1.0, "learning_rate": 0.05, "epochs": 4.0, "batch_rows": 16},
    )
)

register(
    MethodSpec(
        name="lora_fa",
        modality="text",
        summary="LoRA whose A stays as it was drawn: less memory for activations.",
        path="training.methods.lora_fa",
        max_rank=256,
        defaults={"rank": 16, "alpha": 32.0, "learning_rate": 0.001, "epochs": 3.0, "batch_rows": 16},
    )
)

register(
    MethodSpec(
        name="dylora",
        modality="text",
        summary="LoRA of which any rank can be deployed.",
        path="training.methods.dylora",
        max_rank=256,
        defaults={"rank": 8, "alpha": 16.0, "learning_rate": 0.002, "epochs": 4.0, "batch_rows": 16},
    )
)

register(
    MethodSpec(
        name="qlora",
        modality="text",
        summary="LoRA on a base rounded to four bits (NF4): less memory for the base.",
        path="training.methods.qlora",
        max_rank=256,
        defaults={"rank": 16, "alpha": 32.0, "learning_rate": 0.001, "epochs": 3.0, "batch_rows": 16},
    )
)

register(
    MethodSpec(
        name="linear_probe",
        modality="vision",
        summary="A logistic regression on an image tower's frozen features.",
        path="training.methods.linear_probe",
        max_rank=256,
        defaults={"rank": 1},
    )
)

register(
    MethodSpec(
        name="top_blocks",
        modality="vision",
        summary="The last stages of an image tower, tuned as a whole on what the frozen ones below give.",
        path="training.methods.top_blocks",
        max_rank=256,
        defaults={"rank": 1, "learning_rate": 3e-4, "epochs": 8.0, "batch_rows": 32},
    )
)

register(
    MethodSpec(
        name="image_lora",
        modality="vision",
        summary="Low-rank adapters on an image tower's linear layers and pointwise convolutions.",
        path="training.methods.image_lora",
        max_rank=256,
        defaults={"rank": 8, "alpha": 16.0, "learning_rate": 1e-3, "epochs": 8.0, "batch_rows": 32},
    )
)

register(
    MethodSpec(
        name="contrastive",
        modality="vision",
        summary="Images and captions in one space: the image tower is locked, the tower of words gets LoRA.",
        path="training.methods.contrastive",
        max_rank=256,
        defaults={"rank": 8, "alpha": 16.0, "learning_rate": 1e-3, "epochs": 8.0, "batch_rows": 64},
    )
)

register(
    MethodSpec(
        name="audio_lora",
        modality="audio",
        summary="Low-rank adapters on query and value of Whisper's encoder and decoder.",
        path="training.methods.audio_lora",
        max_rank=256,
        defaults={"rank": 8, "alpha": 16.0, "learning_rate": 1e-3, "epochs": 3.0, "batch_rows": 16},
    )
)

register(
    MethodSpec(
        name="llava",
        modality="imagetext",
        summary="A projector from an image tower's features into a language model, with low-rank adapters on that.",
        path="training.methods.llava",
        max_rank=256,
        defaults={"rank": 16, "alpha": 32.0, "learning_rate": 5e-4, "epochs": 2.0, "batch_rows": 16},
    )
)
