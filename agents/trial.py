"""One trial as the agents see it: what was asked of training, what came of it, and how it scored."""

from pydantic import Field

from moatelier.contracts import Contract, DatasetCard, DevRow, EvalReport, MetricName, TrainResult, TrainSpec


class Trial(Contract):
    """A finished trial. `select` holds scores only."""

    spec: TrainSpec
    result: TrainResult
    dev: EvalReport
    select: EvalReport
    jobs: dict[str, str] = Field(default_factory=dict, exclude_if=lambda jobs: not jobs)
    """Keys of its jobs: `train`, `dev`, `select`, `retention`; the reports are signed under them."""
    retention: tuple[EvalReport, EvalReport] | None = Field(default=None, exclude_if=lambda reports: reports is None)
    """Of the base and of the trial on the suite `retention`: what the base could do before. None: not measured."""

    def told_by(self, *names: str) -> tuple[str, ...]:
        """Evidence ids of these jobs, see `Finding.ids`."""
        kinds = {"train": "job"}
        return tuple(f"{kinds.get(name, 'report')}:{self.jobs[name]}" for name in names if name in self.jobs)


class Evidence(Contract):
    """What is known of a trial beside its figures."""

    rows: tuple[DevRow, ...] = ()
    """How its dev rows were answered."""
    card: DatasetCard | None = None
    malformed: tuple[int, ...] = ()
    """Numbers of training rows whose answer has another form than most."""


def score_of(report: EvalReport, metric: MetricName) -> float:
    """The point estimate of a metric; 0 when the report lacks it."""
    return report.metrics[metric].point if metric in report.metrics else 0.0
