"""The registry of tuning methods: what each is called, its limits and its defaults. Imports no torch.

A method's implementation is a module loaded by its dotted path when a training uses it. It offers

    attach(model, spec, first_layer) -> model   put fresh adapters, seeded by `spec.seed`, into layers >= first_layer
    weights(model) -> dict[str, Tensor]         the adapter's tensors, named as PEFT saves them
    restore(model, weights) -> None             put them back, bit by bit
    config(model, base) -> bytes                `adapter_config.json`, the same bytes for the same training

and, where the adapter acts from certain tokens on only,

    activate_by(model, tokens) -> None          write those tokens down, so that the bundle tells

and, for text models, where it needs to,

    sealed(model, dtype) -> dict[str, Tensor]   the bundle's tensors where these are not `weights`; in the base's type
    penalty(model) -> Tensor                    added to a step's mean loss, though not to its curve
    after_step(model, step, steps) -> None      called after the optimiser's step, the gradients still there
    state(model) -> dict                        what `after_step` remembers, for checkpoints; and
    restore_state(model, state) -> None         to put it back

Methods that learn from preferences or rewards have a loss of their own; `objective` names the module that asks for it.
"""

import importlib
from types import ModuleType

from moatelier.contracts import TrainSpec
from moatelier.errors import InvalidRequest, NotFound
from training.methods.known import KNOWN
from training.methods.spec import MethodSpec

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


def stepper(name: str) -> str:
    """The dotted path of what takes a method's steps; the ordinary one for a method that is not registered."""
    return _registered[name].stepper if name in _registered else "training.stepping:Descent"


for _method in KNOWN:
    register(_method)
