"""What a modality says of itself, apart from its implementation, which is loaded by dotted path when it is used."""

from dataclasses import dataclass
from typing import Protocol

from moatelier.contracts import Kind, MetricName, RowProblem


class Example(Protocol):
    """What rows of all modalities have, for checks and splits."""

    @property
    def number(self) -> int:
        """Data row in its file, from 1."""

    @property
    def label(self) -> str | None:
        """Its class, for classification."""

    @property
    def group(self) -> str | None:
        """Rows of one group stay in one split."""

    @property
    def file(self) -> str:
        """What the owner calls the file."""

    @property
    def problem(self) -> RowProblem | None:
        """Why the row cannot be used at all."""

    @property
    def id(self) -> str:
        """16 hex digits: equal content has equal ids."""

    @property
    def place(self) -> str:
        """File and row, for messages."""


@dataclass(frozen=True)
class Modality:
    """The spec of a modality: names, limits, defaults, and where its parts are.

    Attributes:
        name: How plans and bundles call it.
        kinds: Kinds of task it can do.
        metrics: Metrics its tasks can be judged by.
        methods: Training methods that a task may choose, the default first.
        suffixes: File name endings of data it reads.
        max_tokens: Longest row by default, prompt and answer together; 0 where rows have no tokens.
        content: The field of a written row that holds what is asked about, which no other modality's rows have.
        data: Dotted path of its data module (`profile`, `read_rows`, `find`, `split`, `parse_rows`, `locked_digest`).
        curating: Dotted path of its `modalities.curating.Curating`.
        model: Dotted path, `module:function`, of what loads a base.
        files: The modality whose files its tasks learn from, where these are not its own.
    """

    name: str
    kinds: tuple[Kind, ...]
    metrics: tuple[MetricName, ...]
    methods: tuple[str, ...]
    suffixes: tuple[str, ...]
    max_tokens: int
    content: str
    data: str
    curating: str
    model: str
    files: str = ""

    @property
    def held(self) -> str:
        """The modality whose profile its files have."""
        return self.files or self.name
