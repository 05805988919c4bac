"""The registry of tuning methods: what each is called, its limits and its defaults. Imports no torch.

A method's implementation is a module loaded by its dotted path when a training uses it. It offers

    attach(model, spec, first_layer) -> model   put fresh adapters, seeded by `spec.seed`, into layers >= first_layer
    weights(model) -> dict[str, Tensor]         the adapter's tensors, named as PEFT saves them
    restore(model, weights) -> None             put them back, bit by bit
    config(model, base) -> bytes                `adapter_config.json`, the same bytes for the same training

and, where the adapter acts from certain tokens on only,

    activate_by(model, tokens) -> None          write those tokens down, so that the bundle tells
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
    stepper: str = "training.stepping:Descent"
    """What takes its steps, see `training.stepping`."""


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
    if spec.rank > method.max_rank:
        raise InvalidRequest(
            f"Rank {spec.rank} is above the limit of {method.name}.",
            where="rank",
            remedy=f"Use a rank of at most {method.max_rank}.",
        )
    return importlib.import_module(method.path)


def stepper(name: str) -> str:
    """The dotted path of what takes a method's steps; the ordinary one for a method that is not registered."""
    return _registered[name].stepper if name in _registered else "training.stepping:Descent"


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
        name="full",
        modality="text",
        summary="All weights of the layers from the boundary up, or of the whole model.",
        path="training.methods.full",
        max_rank=256,
        defaults={"rank": 1, "learning_rate": 3e-4, "epochs": 3.0, "batch_rows": 16},
    )
)

register(
    MethodSpec(
        name="hft",
        modality="text",
        summary="Half Fine-Tuning: each round trains another random half of the weights; less is forgotten.",
        path="training.methods.hft",
        max_rank=256,
        defaults={"rank": 1, "learning_rate": 3e-4, "epochs": 3.0, "batch_rows": 16},
        stepper="training.halves:Halves",
    )
)

register(
    MethodSpec(
        name="lomo",
        modality="text",
        summary="Full fine-tuning without gradients kept: SGD's update happens within back-propagation.",
        path="training.methods.lomo",
        max_rank=256,
        defaults={"rank": 1, "learning_rate": 1e-2, "epochs": 3.0, "batch_rows": 16},
        stepper="training.fused:Fused",
    )
)

register(
    MethodSpec(
        name="mezo",
        modality="text",
        summary="Full fine-tuning by forward passes alone, in the memory of inference.",
        path="training.methods.mezo",
        max_rank=256,
        defaults={"rank": 1, "learning_rate": 1e-6, "epochs": 20.0, "batch_rows": 16},
        stepper="training.slopes:Slopes",
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
