"""What a modality says of itself, apart from its implementation, which is loaded by dotted path when it is used."""

from dataclasses import dataclass

from moatelier.contracts import Kind, MetricName


@dataclass(frozen=True)
class Modality:
    """The spec of a modality: names, limits, defaults, and where its parts are.

    Attributes:
        name: How plans and bundles call it.
        kinds: Kinds of task it can do.
        metrics: Metrics its tasks can be judged by.
        methods: Training methods that work on it.
        suffixes: File name endings of data it reads.
        max_tokens: Longest row by default, prompt and answer together; 0 where rows have no tokens.
        data: Dotted path of its data module (`profile`, `read_rows`, `find`, `split`).
        model: Dotted path, `module:function`, of what loads a base.
    """

    name: str
    kinds: tuple[Kind, ...]
    metrics: tuple[MetricName, ...]
    methods: tuple[str, ...]
    suffixes: tuple[str, ...]
    max_tokens: int
    data: str
    model: str
