"""What is made of adapters that are there: one mixed of several, and files for other programs."""

from typing import Literal

from pydantic import Field

from moatelier.contracts.base import Contract, MetricName, SplitName
from moatelier.contracts.evaluation import Interval, PairedComparison
from moatelier.contracts.training import Mixing

ExportFormat = Literal["peft", "safetensors", "gguf", "onnx"]
Numbers = Literal["f32", "f16", "q8_0"]
"""What the weights of a GGUF file are in: q8_0 is 8 bits and a scale for each 32 weights."""


class MixSpec(Contract):
    """What a mixing job does."""

    suffix: str
    mixing: Mixing


class Retained(Contract):
    """How one parent's task fares with the mixed adapter, on rows that are not locked."""

    parent: str
    dataset: str
    split: SplitName
    rows: int
    metric: MetricName
    by_parent: Interval
    by_mixed: Interval
    comparison: PairedComparison
    """Mixed minus parent, on the same rows."""


class Retention(Contract):
    """A mixed adapter and what it retains of each parent's task."""

    adapter: str
    mixing: Mixing
    table: tuple[Retained, ...]


class ExportSpec(Contract):
    """What an export job does."""

    bundle: str
    format: ExportFormat
    numbers: Numbers = "f32"
    """Only of GGUF; the other formats are in float32."""


class Parity(Contract):
    """`parity.json`: what another program, which read the export back, answered beside ours."""

    adapter: str
    format: ExportFormat
    numbers: Numbers
    reader: str
    """Library and version that read the export."""
    prompts: int
    prompts_digest: str
    """Of the dev rows that were asked, so that the same can be asked again."""
    tolerance: float
    """The largest difference of logits, or of vectors, that is let through."""
    largest_difference: float
    merge_difference: float | None = None
    """The largest difference that merging alone makes, in float32; None where nothing is merged."""
    equal_answers: int
    """Of the prompts: greedy token ids, or labels, that are the same."""
    score: float
    """Share of right answers by our own engine."""
    score_exported: float
    score_tolerance: float
    files: dict[str, str] = Field(default_factory=dict)
    """File name -> SHA-256, of every other file of the export."""
