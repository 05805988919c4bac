"""Kinds of task: which each modality has, what they are judged by, and how their data are spoken of."""

from collections.abc import Mapping, Sequence

from moatelier.contracts import Kind, MetricName

KINDS: Mapping[str, tuple[Kind, ...]] = {
    "text": ("classification", "chat", "preference", "thumbs"),
    "vision": ("classification", "retrieval"),
    "audio": ("transcription", "classification"),
    "imagetext": ("chat",),
}
METRICS: Mapping[Kind, tuple[MetricName, ...]] = {
    "classification": ("accuracy", "macro_f1", "exact_match"),
    "chat": ("exact_match", "accuracy"),
    "transcription": ("word_accuracy", "exact_match"),
    "retrieval": ("recall_at_1", "recall_at_5"),
    "preference": ("preference_accuracy",),
    "thumbs": ("preference_accuracy",),
}
"""Kind -> its metrics, the usual one first."""
ROWS: Mapping[Kind, str] = {
    "classification": "one label a row",
    "chat": "conversations",
    "transcription": "transcripts",
    "retrieval": "pictures with captions",
    "preference": "pairs of answers of which one is preferred",
    "thumbs": "answers with a thumb up or down",
}
LIKED: frozenset[Kind] = frozenset({"preference", "thumbs"})
"""Kinds whose rows say which answers are liked; what is tuned by them answers as a chat adapter does."""
NOUN: Mapping[str, str] = {"text": "row", "vision": "picture", "audio": "recording", "imagetext": "question"}
"""Modality -> what one of its rows is called."""

_ONLY: Mapping[str, Kind] = {
    "contrastive": "retrieval",
    "llava": "chat",
    "dpo": "preference",
    "orpo": "preference",
    "kto": "thumbs",
}
"""Methods that one kind of task alone is learnt by, and it by no other."""


def fitting(methods: Sequence[str], kind: Kind) -> tuple[str, ...]:
    """Those of the methods on offer that a task of this kind can be learnt by, the default first."""
    own = tuple(method for method in methods if _ONLY.get(method) == kind)
    return own or tuple(method for method in methods if method not in _ONLY)


def learnt_as(held: str, kind: Kind) -> str:
    """The modality of a task on files of one: questions about pictures are for a text model that sees."""
    return "imagetext" if (held, kind) == ("vision", "chat") else held


def own_metric(kind: Kind | None) -> MetricName:
    """What a kind is judged by when nobody says."""
    return METRICS[kind or "classification"][0]
