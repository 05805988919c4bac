"""One trial as the agents see it: what was asked of training, what came of it, and how it scored."""

from moatelier.contracts import Contract, EvalReport, TrainResult, TrainSpec


class Trial(Contract):
    """A finished trial. `select` holds scores only."""

    spec: TrainSpec
    result: TrainResult
    dev: EvalReport
    select: EvalReport
