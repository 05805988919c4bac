"""Kinds of task: which each modality has, what they are judged by, and how their data are spoken of."""

from collections.abc import Mapping, Sequence

from moatelier.contracts import Kind, MetricName

KINDS: Mapping[str, tuple[Kind, ...]] = {
    "text": ("classification", "chat"),
    "vision": ("classification", "retrieval"),
    "audio": ("transcription", "classification"),
}
METRICS: Mapping[Kind, tuple[MetricName, ...]] = {
    "classification": ("accuracy", "macro_f1", "exact_match"),
    "chat": ("exact_match", "accuracy"),
    "transcription": ("word_accuracy", "exact_match"),
    "retrieval": ("recall_at_1", "recall_at_5"),
}
"""Kind -> its metrics, the usual one first."""
ROWS: Mapping[Kind, str] = {
    "classification": "one label a row",
    "chat": "conversations",
    "transcription": "transcripts",
    "retrieval": "pictures with captions",
}
NOUN: Mapping[str, str] = {"text": "row", "vision": "picture", "audio": "recording"}
"""Modality -> what one of its rows is called."""

_RETRIEVING = ("contrastive",)
"""Methods that bring pictures and words into one space; all others teach to answer."""


def fitting(methods: Sequence[str], kind: Kind) -> tuple[str, ...]:
    """Those of the methods on offer that a task of this kind can be learnt by, the default first."""
    return tuple(method for method in methods if (method in _RETRIEVING) == (kind == "retrieval"))


def own_metric(kind: Kind | None) -> MetricName:
    """What a kind is judged by when nobody says."""
    return METRICS[kind or "classification"][0]
