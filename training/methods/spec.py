"""What a tuning method says of itself, apart from its implementation."""

from moatelier.contracts import Contract


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
    objective: str = ""
    """Dotted path of the module whose `prepare` gives its objective; empty for the modality's own."""
