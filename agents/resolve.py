"""From what was read to a plan: what nobody said comes from the file or the defaults, what is unclear is asked."""

from collections.abc import Sequence
from typing import Any, Literal

from agents.aims import resolve_goal
from agents.kinds import NOUN, ROWS, fitting, learnt_as
from agents.media import resolve_media
from agents.policies import PRIVATE_MEANS, TOO_LONG_MEANS
from agents.proposals import is_quoted
from agents.reading import Reading, Said
from agents.roles import resolve_columns, resolve_kind
from agents.scene import Defaults, Scene, columns_of
from agents.senses import NAMES
from agents.spaces import TRIALS, USUAL, filled
from agents.starts import SOLVED, comparable
from agents.words import in_words, percent
from moatelier.contracts import (
    AnyColumns,
    Budget,
    Columns,
    DataProfile,
    Goal,
    Kind,
    Question,
    Search,
    Sourced,
    TaskPlan,
)
from moatelier.contracts.plan import NO_SEARCH
from moatelier.ids import slug

ORDER = (
    "request train_file rows modality kind columns.messages columns.input columns.target columns.group goal "
    "test_file budget "
    "budget trials search private too_long method base name seed"
).split()


_METHOD = {
    "lora": "low-rank adapters on the top third of the layers",
    "full": "the weights of the top third of the layers themselves",
    "hft": "half of the weights of the top third of the layers, the other half stays as it is",
    "top_blocks": "the last blocks of the image model are tuned as a whole, on what the frozen ones below give",
    "llava": "a text model is shown what an image model sees, and both the way between them and its top are tuned",
    "contrastive": "pictures and words are brought into one space, the image model itself stays as it is",
    "audio_lora": "low-rank adapters on the attention of the whole model",
}


def resolve(reading: Reading, scene: Scene) -> TaskPlan | tuple[Question, ...]:
    """The plan that a reading makes in its scene, or what must be asked."""
    questions = dict(reading.unclear)
    kind, columns = _data(reading, scene, questions)
    goal = resolve_goal(reading, scene, kind.value if kind else None, questions)
    if scene.test_profile and isinstance(columns, Sourced) and not _splits_off(reading):
        _check_test_file(columns.value, scene, questions)
    if scene.media:
        _check_policies(reading, scene, questions)
    learnt = learnt_as(scene.modality, kind.value) if kind else scene.modality
    offered = scene.defaults.of(learnt)
    methods = (fitting(offered.methods, kind.value) if kind else ()) or offered.methods
    if kind:
        _check_offered(reading, kind.value, offered, questions)
    if questions or kind is None or columns is None or goal is None or scene.train_file is None:
        return tuple(sorted(questions.values(), key=lambda question: ORDER.index(question.field)))
    method = _chosen(
        reading,
        scene,
        "method",
        methods[0],
        f"Nothing was said; {_METHOD.get(methods[0], 'the default for such data')}.",
        methods,
    )
    search = _search(reading, method.value, methods)
    if isinstance(search, Question):
        return (search,)
    return TaskPlan(
        name=_name(reading, scene, columns.value),
        train_file=scene.train_file,
        test_file=None if _splits_off(reading) else scene.test_file,
        modality=_modality(scene, learnt),
        kind=kind,
        columns=columns,
        goal=goal,
        budget=_budget(reading, scene, search.value),
        method=method,
        base=_chosen(
            reading, scene, "base", offered.base, "Nothing was said; the service's base model.", _bases(offered)
        ),
        private=_policy(reading, scene),
        too_long=_too_long(reading, scene),
        search=search,
        seed=reading.said["seed"].value if "seed" in reading.said else 0,
        notes=_notes(reading, scene, goal.value),
    )


def _search(reading: Reading, method: str, methods: Sequence[str]) -> Sourced[Search] | Question:
    """The search that was asked for with the values it may try."""
    said = reading.said.get("search")
    if said is None:
        return NO_SEARCH
    others = comparable(methods)
    if method in SOLVED and said.value["by"] != "none" and "method" not in said.value["space"]:
        text = f"{method} is computed at once: there is nothing to search. Which method shall be searched?"
        return Question(field="method", text=text, choices=others)
    try:
        value = filled(said.value, method, methods)
    except ValueError:
        text = f"{said.reason} But {method} has no such settings. What shall be searched?"
        return Question(field="search", text=text, choices=(USUAL,))
    if unfit := [str(each) for each in value.space.get("method", ()) if each not in others]:
        text = f"{said.reason} But such data are not learnt in trials by {', '.join(unfit)}. Which method shall it be?"
        return Question(field="method", text=text, choices=others)
    return Sourced(value=value, source=said.source, confidence=said.confidence, reason=said.reason)


def _check_offered(reading: Reading, kind: Kind, offered: Defaults, questions: dict[str, Question]) -> None:
    """A method or a base that was named must be one for the kind of task."""
    fits = {"method": fitting(offered.methods, kind), "base": _bases(offered)}
    for field, choices in fits.items():
        said = reading.said.get(field)
        if said and said.value not in choices:
            text = f"{said.reason} But {ROWS[kind]} are not learnt by it. Which {field} shall it be?"
            questions.setdefault(field, Question(field=field, text=text, choices=choices))


def _bases(offered: Defaults) -> tuple[str, ...]:
    return tuple(dict.fromkeys((offered.base, *offered.bases)))


def _modality(scene: Scene, learnt: str) -> Sourced[str]:
    reason = f"{scene.file} holds {NAMES.get(scene.modality, 'text')}."
    if learnt != scene.modality:
        reason += " What is asked about them in words is answered by a text model that sees."
    return Sourced(value=learnt, source="inferred", confidence=1.0, reason=reason)


def _splits_off(reading: Reading) -> bool:
    return "test_file" in reading.said and str(reading.said["test_file"].value).startswith("split")


def _data(
    reading: Reading, scene: Scene, questions: dict[str, Question]
) -> tuple[Sourced[Kind] | None, Sourced[AnyColumns] | None]:
    if scene.profile is None:
        text = (
            "Which data shall it learn from? Send a CSV file with one text and one label a row, a JSONL file "
            "with conversations, or a zip of pictures or recordings."
        )
        questions["train_file"] = Question(field="train_file", text=text)
        for field in [field for field in questions if field.startswith(("columns.", "kind"))]:
            del questions[field]
        return None, None
    if not isinstance(scene.profile, DataProfile):
        return _media(reading, scene, questions)
    kind = resolve_kind(reading, scene, scene.profile)
    if isinstance(kind, Question):
        questions.setdefault("kind", kind)
        return None, None
    columns = resolve_columns(reading, scene, scene.profile, kind.value)
    if isinstance(columns, Sourced):
        return kind, Sourced[AnyColumns].model_validate(columns.model_dump())
    for question in columns:
        questions.setdefault(question.field, question)
    return kind, None


def _media(
    reading: Reading, scene: Scene, questions: dict[str, Question]
) -> tuple[Sourced[Kind] | None, Sourced[AnyColumns] | None]:
    found = resolve_media(reading, scene)
    if len(found) == 2 and isinstance(found[0], Sourced):
        return found
    for question in found:
        assert isinstance(question, Question)
        questions.setdefault(question.field, question)
    return None, None


# ---------------------------------------------------------------- limits and policies


def _budget(reading: Reading, scene: Scene, search: Search) -> Sourced[Budget]:
    seconds, trials = _limit(reading, scene, "seconds"), _limit(reading, scene, "trials")
    usual = scene.defaults.trials if search.by == "none" else min(max(search.combinations, 1), TRIALS)
    own = Budget(seconds=scene.defaults.seconds, trials=usual)
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


def _check_policies(reading: Reading, scene: Scene, questions: dict[str, Question]) -> None:
    """What is done with words cannot be done with pictures and recordings."""
    held = NAMES[scene.modality]
    private, too_long = reading.said.get("private"), reading.said.get("too_long")
    if private and private.value != "allow":
        text = f"{private.reason} But {held} are not searched for private data, so that it can only be allowed. Go on?"
        questions.setdefault("private", Question(field="private", text=text, choices=("allow it",)))
    if too_long and too_long.value == "truncate":
        text = f"{too_long.reason} But {held} cannot be cut as texts can. What shall happen to those that do not fit?"
        questions.setdefault("too_long", Question(field="too_long", text=text, choices=("drop", "refuse")))


def _policy(reading: Reading, scene: Scene) -> Sourced[Literal["redact", "reject", "allow"]]:
    if scene.media and "private" not in reading.said:
        why = f"{NAMES[scene.modality].capitalize()} are not searched for private data."
        return Sourced(value="allow", source="default", confidence=1.0, reason=why)
    said = reading.said.get("private") or _proposed(scene, "private", PRIVATE_MEANS)
    if said is None:
        return Sourced(
            value="redact", source="default", confidence=1.0, reason=f"Nothing was said; {PRIVATE_MEANS['redact']}."
        )
    return Sourced(value=said.value, source=said.source, confidence=said.confidence, reason=said.reason)


def _too_long(reading: Reading, scene: Scene) -> Sourced[Literal["refuse", "drop", "truncate"]]:
    if scene.media and "too_long" not in reading.said:
        why = "Nothing was said; the few recordings that do not fit into the window are left out."
        why = why if scene.modality == "audio" else "All pictures are brought to one size."
        return Sourced(value="drop", source="default", confidence=1.0, reason=why)
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


def _name(reading: Reading, scene: Scene, columns: AnyColumns) -> str:
    if said := reading.said.get("name"):
        return str(said.value)
    proposed = scene.proposal.name
    if proposed and is_quoted(proposed.quote, scene.words) and slug(proposed.value) != "task":
        return slug(proposed.value)
    stem = scene.file.replace("\\", "/").rsplit("/", 1)[-1].rsplit(".", 1)[0]
    named = columns.target if isinstance(columns, Columns) else None
    target = named if named and named.casefold() not in stem.casefold() else ""
    return slug(f"{stem}-{target}" if target else stem)


def _check_test_file(columns: AnyColumns, scene: Scene, questions: dict[str, Question]) -> None:
    test = scene.test_profile
    assert test is not None, "only called with a test file"
    if test.modality != scene.modality:
        theirs, ours = NAMES.get(test.modality, "text"), NAMES.get(scene.modality, "text")
        text = (
            f"The test file {test.name} holds {theirs}, not {ours}. "
            "Send another one, or shall I split the locked rows off the training file?"
        )
        questions["test_file"] = Question(field="test_file", text=text, choices=("split them off",))
        return
    has = set(columns_of(test))
    needed = columns.model_dump(include={"input", "target", "messages", "image", "audio", "label", "caption", "text"})
    missing = [name for name in needed.values() if name and name not in has]
    if missing:
        text = (
            f"The test file {test.name} has no column {' or '.join(repr(name) for name in missing)} (it has: "
            f"{', '.join(sorted(has)) or 'no table'}). "
            "Send another one, or shall I split the locked rows off the training file?"
        )
        questions["test_file"] = Question(field="test_file", text=text, choices=("split them off",))


def _notes(reading: Reading, scene: Scene, goal: Goal) -> tuple[str, ...]:
    notes = list(reading.notes)
    profile = scene.profile
    if isinstance(profile, DataProfile) and profile.exact_duplicates:
        notes.append(f"{profile.exact_duplicates} of {profile.rows} rows repeat earlier ones and will be left out.")
    if profile and profile.problems:
        first = profile.problems[0]
        notes.append(
            f"{len(profile.problems)} {NOUN[profile.modality]}s cannot be used, such as row {first.row}, "
            f"{first.field}: {first.reason}"
        )
    if scene.test_file and scene.test_file == scene.train_file and scene.test_profile and not _splits_off(reading):
        notes.append(
            f"{scene.file} comes divided: the {scene.test_profile.rows} {NOUN[scene.modality]}s of its test part are "
            "the locked test. Say 'split the test rows off' to have all of them divided anew."
        )
    if goal.target == 1:
        notes.append(f"A goal of {percent(1)} allows no mistake and can never be shown on a finite number of rows.")
    return tuple(notes)
