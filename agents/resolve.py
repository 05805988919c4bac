"""From what was read to a plan: what nobody said comes from the file or the defaults, what is unclear is asked."""

from typing import Any, Literal

from agents.cues import METRIC_NAMES
from agents.goals import goal_question, goal_text
from agents.policies import PRIVATE_MEANS, TOO_LONG_MEANS
from agents.proposals import is_quoted
from agents.reading import Reading, Said
from agents.roles import resolve_columns, resolve_kind
from agents.scene import Scene
from agents.words import in_words, percent
from moatelier.contracts import Budget, Columns, Goal, Kind, MetricName, Question, Sourced, TaskPlan
from moatelier.ids import slug

ORDER = (
    "request train_file rows modality kind columns.messages columns.input columns.target columns.group goal "
    "test_file budget "
    "budget trials private too_long method base name seed"
).split()


def resolve(reading: Reading, scene: Scene) -> TaskPlan | tuple[Question, ...]:
    """The plan that a reading makes in its scene, or what must be asked."""
    questions = dict(reading.unclear)
    kind, columns = _data(reading, scene, questions)
    goal = _goal(reading, scene, kind, questions)
    if scene.test_profile and isinstance(columns, Sourced) and not _splits_off(reading):
        _check_test_file(columns.value, scene, questions)
    if questions or kind is None or columns is None or goal is None or scene.train_file is None:
        return tuple(sorted(questions.values(), key=lambda question: ORDER.index(question.field)))
    return TaskPlan(
        name=_name(reading, scene, columns.value),
        train_file=scene.train_file,
        test_file=None if _splits_off(reading) else scene.test_file,
        modality=Sourced(value="text", source="inferred", confidence=1.0, reason=f"{_file(scene)} holds text."),
        kind=kind,
        columns=columns,
        goal=goal,
        budget=_budget(reading, scene),
        method=_chosen(
            reading,
            scene,
            "method",
            scene.defaults.methods[0],
            "Nothing was said; low-rank adapters on the top third of the layers.",
            scene.defaults.methods,
        ),
        base=_chosen(
            reading, scene, "base", scene.defaults.base, "Nothing was said; the service's base model.", scene.bases
        ),
        private=_policy(reading, scene),
        too_long=_too_long(reading, scene),
        seed=reading.said["seed"].value if "seed" in reading.said else 0,
        notes=_notes(reading, scene, goal.value),
    )


def _file(scene: Scene) -> str:
    return scene.profile.name if scene.profile else "The file"


def _splits_off(reading: Reading) -> bool:
    return "test_file" in reading.said and str(reading.said["test_file"].value).startswith("split")


def _data(
    reading: Reading, scene: Scene, questions: dict[str, Question]
) -> tuple[Sourced[Kind] | None, Sourced[Columns] | None]:
    if scene.profile is None:
        text = (
            "Which data shall it learn from? Send a CSV file with one text and one label a row, or a JSONL file "
            "with conversations."
        )
        questions["train_file"] = Question(field="train_file", text=text)
        for field in [field for field in questions if field.startswith(("columns.", "kind"))]:
            del questions[field]
        return None, None
    kind = resolve_kind(reading, scene, scene.profile)
    if isinstance(kind, Question):
        questions.setdefault("kind", kind)
        return None, None
    columns = resolve_columns(reading, scene, scene.profile, kind.value)
    if isinstance(columns, Sourced):
        return kind, columns
    for question in columns:
        questions.setdefault(question.field, question)
    return kind, None


# ---------------------------------------------------------------- goal


def _goal(
    reading: Reading, scene: Scene, kind: Sourced[Kind] | None, questions: dict[str, Question]
) -> Sourced[Goal] | None:
    if "goal" in questions:
        return None
    chat = kind is not None and kind.value == "chat"
    metric, target = reading.said.get("metric"), reading.said.get("target")
    if metric and metric.value == "macro_f1" and chat:
        text = (
            "Macro-F1 needs one label a row, and these rows are conversations; they are scored by exact match. "
            "What must be reached?"
        )
        questions["goal"] = goal_question(text, "exact_match")
        return None
    if target is None:
        questions["goal"] = _ask_goal(metric, scene, chat)
        return None
    name, why, sure = _measure(metric, chat)
    goal = Goal(metric=name, target=target.value)
    said = metric is not None and metric.source == target.source == "user" and why == metric.reason
    reason = target.reason if said and metric and metric.reason == target.reason else f"{target.reason} {why}"
    return Sourced(
        value=goal,
        source="user" if said else "inferred",
        confidence=round(min(target.confidence, sure), 2),
        reason=reason,
    )


def _measure(metric: Said | None, chat: bool) -> tuple[MetricName, str, float]:
    own: MetricName = "exact_match" if chat else "accuracy"
    if metric is None:
        return (
            own,
            f"No measure was named; for {'conversations' if chat else 'one label a row'} it is {METRIC_NAMES[own]}.",
            0.8,
        )
    if metric.value in ("right", "accuracy") and chat:
        return "exact_match", "A conversation's answer is right when it matches exactly.", 0.8
    if metric.value == "right":
        return "accuracy", metric.reason, metric.confidence
    names: dict[str, MetricName] = {name: name for name in METRIC_NAMES}
    return names[metric.value], metric.reason, metric.confidence


def _ask_goal(metric: Said | None, scene: Scene, chat: bool) -> Question:
    proposed = scene.proposal.goal
    if proposed and is_quoted(proposed.quote, scene.words, with_number=True):
        goal = Goal(metric=proposed.metric, target=proposed.target)
        return Question(
            field="goal",
            text=f'Does "{proposed.quote}" mean this goal? If not, what must be reached?',
            choices=(goal_text(goal),),
        )
    if metric and metric.value in METRIC_NAMES:
        name: MetricName = "exact_match" if chat and metric.value == "accuracy" else metric.value
        return goal_question(f"Which {METRIC_NAMES[name]} must be reached for the task to count as done?", name)
    own = "exact_match" if chat else "accuracy"
    return goal_question(
        "What counts as success? Name a measure and the least it must reach on rows the model has never seen.", own
    )


# ---------------------------------------------------------------- limits and policies


def _budget(reading: Reading, scene: Scene) -> Sourced[Budget]:
    seconds, trials = _limit(reading, scene, "seconds"), _limit(reading, scene, "trials")
    own = Budget(seconds=scene.defaults.seconds, trials=scene.defaults.trials)
    value = Budget(seconds=seconds.value if seconds else own.seconds, trials=trials.value if trials else own.trials)
    if not seconds and not trials:
        reason = f"Nothing was said; at most {in_words(own.seconds)} of training over at most {_counted(own.trials)}."
        return Sourced(value=value, source="default", confidence=1.0, reason=reason)
    said = [each for each in (seconds, trials) if each]
    reasons = list(dict.fromkeys(each.reason for each in said))
    if not seconds:
        reasons.append(f"At most {in_words(own.seconds)} of training is the default.")
    if not trials:
        reasons.append(f"At most {_counted(own.trials)} is the default.")
    source: Literal["user", "inferred"] = "user" if any(each.source == "user" for each in said) else "inferred"
    return Sourced(
        value=value, source=source, confidence=min(each.confidence for each in said), reason=" ".join(reasons)
    )


def _limit(reading: Reading, scene: Scene, field: str) -> Said | None:
    if field in reading.said:
        return reading.said[field]
    proposed = scene.proposal.budget
    value = getattr(proposed, field) if proposed else None
    if proposed is None or value is None or not is_quoted(proposed.quote, scene.words, with_number=True):
        return None
    return Said(value, f'The planner endpoint read this in "{proposed.quote}".', 0.6, "inferred")


def _counted(trials: int) -> str:
    return f"{trials} trial{'s' * (trials != 1)}"


def _policy(reading: Reading, scene: Scene) -> Sourced[Literal["redact", "reject", "allow"]]:
    said = reading.said.get("private") or _proposed(scene, "private", PRIVATE_MEANS)
    if said is None:
        return Sourced(
            value="redact", source="default", confidence=1.0, reason=f"Nothing was said; {PRIVATE_MEANS['redact']}."
        )
    return Sourced(value=said.value, source=said.source, confidence=said.confidence, reason=said.reason)


def _too_long(reading: Reading, scene: Scene) -> Sourced[Literal["refuse", "drop", "truncate"]]:
    said = reading.said.get("too_long") or _proposed(scene, "too_long", TOO_LONG_MEANS)
    if said is None:
        return Sourced(
            value="refuse", source="default", confidence=1.0, reason=f"Nothing was said; {TOO_LONG_MEANS['refuse']}."
        )
    return Sourced(value=said.value, source=said.source, confidence=said.confidence, reason=said.reason)


def _chosen(reading: Reading, scene: Scene, field: str, default: str, why: str, allowed: Any) -> Sourced[str]:
    said = reading.said.get(field) or _proposed(scene, field, allowed)
    if said is None:
        return Sourced(value=default, source="default", confidence=1.0, reason=why)
    return Sourced(value=said.value, source=said.source, confidence=said.confidence, reason=said.reason)


def _proposed(scene: Scene, field: str, allowed: Any) -> Said | None:
    proposed = getattr(scene.proposal, field)
    if proposed is None or proposed.value not in allowed or not is_quoted(proposed.quote, scene.words):
        return None
    return Said(proposed.value, f'The planner endpoint read this in "{proposed.quote}".', 0.6, "inferred")


# ---------------------------------------------------------------- name, test file, notes


def _name(reading: Reading, scene: Scene, columns: Columns) -> str:
    if said := reading.said.get("name"):
        return str(said.value)
    proposed = scene.proposal.name
    if proposed and is_quoted(proposed.quote, scene.words) and slug(proposed.value) != "task":
        return slug(proposed.value)
    stem = _file(scene).replace("\\", "/").rsplit("/", 1)[-1].rsplit(".", 1)[0]
    target = columns.target if columns.target and columns.target.casefold() not in stem.casefold() else ""
    return slug(f"{stem}-{target}" if target else stem)


def _check_test_file(columns: Columns, scene: Scene, questions: dict[str, Question]) -> None:
    test = scene.test_profile
    assert test is not None, "only called with a test file"
    has = {column.name for column in test.columns}
    missing = [name for name in (columns.input, columns.target, columns.messages) if name and name not in has]
    if missing:
        text = (
            f"The test file {test.name} has no column {' or '.join(repr(name) for name in missing)} (it has: "
            f"{', '.join(sorted(has))}). "
            "Send another one, or shall I split the locked rows off the training file?"
        )
        questions["test_file"] = Question(field="test_file", text=text, choices=("split them off",))


def _notes(reading: Reading, scene: Scene, goal: Goal) -> tuple[str, ...]:
    notes = list(reading.notes)
    profile = scene.profile
    if profile and profile.exact_duplicates:
        notes.append(f"{profile.exact_duplicates} of {profile.rows} rows repeat earlier ones and will be left out.")
    if profile and profile.problems:
        first = profile.problems[0]
        notes.append(
            f"{len(profile.problems)} rows cannot be used, such as row {first.row}, {first.field}: {first.reason}"
        )
    if goal.target == 1:
        notes.append(f"A goal of {percent(1)} allows no mistake and can never be shown on a finite number of rows.")
    return tuple(notes)
