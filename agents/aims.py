"""The goal of a plan: the measure and the number that were read, made to fit the kind of task; else a question."""

from collections.abc import Mapping

from agents.cues import METRIC_NAMES
from agents.goals import MEASURES, WER, goal_question, goal_text, which_measure
from agents.kinds import LIKED, METRICS, ROWS, own_metric
from agents.proposals import is_quoted
from agents.reading import Reading, Said
from agents.scene import Scene
from moatelier.contracts import Goal, Kind, MetricName, Question, Sourced

_WORDS = "Of transcripts the words are counted: word accuracy is one less the word error rate."
_FIRST = "Of pictures and captions it counts how often what belongs together is found first: recall@1."
_FOUND = "Of pictures with captions I can measure recall@1 and recall@5"
_SPOKEN = "Of transcripts I can measure word accuracy, which is one less the word error rate, and exact match"
_FITS_LIKED = ("preference_accuracy", "accuracy", "right")
_LIKING = "Of preferences I can measure preference accuracy: how often it has come to like what is preferred"
_RECALLS: Mapping[str, MetricName] = {
    "recall": "recall_at_1",
    "recall_at_1": "recall_at_1",
    "recall_at_5": "recall_at_5",
}


def resolve_goal(
    reading: Reading, scene: Scene, kind: Kind | None, questions: dict[str, Question]
) -> Sourced[Goal] | None:
    """The goal, or its question among the others."""
    if "goal" in questions:
        measures = {"transcription": _SPOKEN, "retrieval": _FOUND}.get(kind or "")
        if measures and questions["goal"].text.startswith(MEASURES):
            told = questions["goal"].text.removeprefix(MEASURES)
            questions["goal"] = goal_question(f"{measures}{told}", own_metric(kind))
        return None
    metric, target = reading.said.get("metric"), reading.said.get("target")
    if metric and kind and (refused := _refused(metric, target, kind)):
        questions["goal"] = refused
        return None
    if target is None:
        questions["goal"] = _ask_goal(metric, scene, kind)
        return None
    name, why, sure = _measure(metric, kind)
    goal = Goal(metric=name, target=target.value)
    said = metric is not None and metric.source == target.source == "user" and why == metric.reason
    reason = target.reason if said and metric and metric.reason == target.reason else f"{target.reason} {why}"
    return Sourced(
        value=goal,
        source="user" if said else "inferred",
        confidence=round(min(target.confidence, sure), 2),
        reason=reason,
    )


def _refused(metric: Said, target: Said | None, kind: Kind) -> Question | None:
    """The question for a measure that rows of a kind do not have."""
    if metric.value in _RECALLS and kind != "retrieval":
        name = "recall" if metric.value == "recall" else METRIC_NAMES[_RECALLS[metric.value]]
        if target and kind == "classification":
            return which_measure(name, target.value)
        measures = _SPOKEN if kind == "transcription" else MEASURES
        return goal_question(f"{measures}, not {name}. What must be reached?", own_metric(kind))
    if (kind in LIKED and metric.value not in _FITS_LIKED) or (kind not in LIKED and metric.value == _FITS_LIKED[0]):
        measures = _LIKING if kind in LIKED else MEASURES
        named = METRIC_NAMES.get(metric.value, str(metric.value))
        return goal_question(f"{measures}, not {named}. What must be reached?", own_metric(kind))
    if kind == "retrieval" and metric.value in ("exact_match", "word_accuracy"):
        named = METRIC_NAMES[metric.value]
        return goal_question(f"{_FOUND}, not {named}. What must be reached?", own_metric(kind))
    if metric.value == "macro_f1" and kind != "classification":
        scored = {"chat": "exact match", "retrieval": "recall@1 or recall@5"}.get(kind, "word accuracy or exact match")
        text = (
            f"Macro-F1 needs one label a row, and these rows are {ROWS[kind]}; they are scored by {scored}. "
            "What must be reached?"
        )
        return goal_question(text, own_metric(kind))
    if metric.reason == WER and kind != "transcription":
        return goal_question(f"{MEASURES}, not WER. What must be reached?", own_metric(kind))
    return None


def _measure(metric: Said | None, kind: Kind | None) -> tuple[MetricName, str, float]:
    own = own_metric(kind)
    if metric is None:
        rows = ROWS[kind or "classification"]
        return own, f"No measure was named; for {rows} it is {METRIC_NAMES[own]}.", 0.8
    if kind in LIKED:
        return own, "Of preferences it counts how often the tuned model has come to like what is preferred.", 0.9
    if metric.value in ("right", "accuracy", "word_accuracy") and kind == "chat":
        return "exact_match", "A conversation's answer is right when it matches exactly.", 0.8
    if metric.value in ("right", "accuracy") and kind == "transcription":
        return "word_accuracy", _WORDS, 0.9
    if metric.value in ("right", "accuracy") and kind == "retrieval":
        return "recall_at_1", _FIRST, 0.9
    if metric.value in _RECALLS:
        return _RECALLS[metric.value], metric.reason, metric.confidence
    if metric.value == "right":
        return "accuracy", metric.reason, metric.confidence
    if metric.value == "word_accuracy" and kind == "classification":
        return "accuracy", "With one label a row, the share of right words is the accuracy.", 0.8
    names: dict[str, MetricName] = {name: name for name in METRIC_NAMES}
    return names[metric.value], metric.reason, metric.confidence


def _ask_goal(metric: Said | None, scene: Scene, kind: Kind | None) -> Question:
    proposed = scene.proposal.goal
    fits = proposed and (kind is None or proposed.metric in METRICS[kind])
    if proposed and fits and is_quoted(proposed.quote, scene.words, with_number=True):
        goal = Goal(metric=proposed.metric, target=proposed.target)
        return Question(
            field="goal",
            text=f'Does "{proposed.quote}" mean this goal? If not, what must be reached?',
            choices=(goal_text(goal),),
        )
    own = own_metric(kind)
    if metric and metric.value in METRIC_NAMES:
        name: MetricName = metric.value if kind is None or metric.value in METRICS[kind] else own
        name = own if (kind in ("chat", "retrieval") and name == "accuracy") or kind in LIKED else name
        return goal_question(f"Which {METRIC_NAMES[name]} must be reached for the task to count as done?", name)
    return goal_question(
        "What counts as success? Name a measure and the least it must reach on rows the model has never seen.", own
    )
