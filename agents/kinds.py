"""Kinds of task: which each modality has, what they are judged by, and how their data are spoken of."""

from collections.abc import Mapping

from moatelier.contracts import Kind, MetricName

KINDS: Mapping[str, tuple[Kind, ...]] = {
    "text": ("classification", "chat"),
    "vision": ("classification",),
    "audio": ("transcription", "classification"),
}
METRICS: Mapping[Kind, tuple[MetricName, ...]] = {
    "classification": ("accuracy", "macro_f1", "exact_match"),
    "chat": ("exact_match", "accuracy"),
    "transcription": ("word_accuracy", "exact_match"),
}
"""Kind -> its metrics, the usual one first."""
ROWS: Mapping[Kind, str] = {
    "classification": "one label a row",
    "chat": "conversations",
    "transcription": "transcripts",
}
NOUN: Mapping[str, str] = {"text": "row", "vision": "picture", "audio": "recording"}
"""Modality -> what one of its rows is called."""


def own_metric(kind: Kind | None) -> MetricName:
    """What a kind is judged by when nobody says."""
    return METRICS[kind or "classification"][0]
