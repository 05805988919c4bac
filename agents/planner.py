"""The planner: plain words and a look at the data -> a plan with the provenance of every field, or questions.

A deterministic grammar reads the words (`agents/answers.py` and what it imports). What it does not find is taken from
the file's profile or the service's defaults; what stays unclear is asked, all at once. The same input gives the same
plan, so a plan can be made again at any time from the messages.
"""

from collections.abc import Sequence
from typing import Any

from agents.answers import read_answer, read_request
from agents.proposals import Proposal, accept, proposal_schema
from agents.reading import Reading
from agents.resolve import resolve
from agents.revision import revise
from agents.scene import Defaults, Offer, Scene
from agents.senses import chosen
from agents.words import percent
from moatelier.contracts import AnyProfile, Question, TaskPlan

__all__ = ["Defaults", "Offer", "accept", "plan", "proposal_schema", "revise", "with_required"]

LOCKED_NOTE = "Locked rows: "
"""How the note on the locked rows begins; there is one at most."""


def plan(
    messages: Sequence[str],
    profile: AnyProfile | None,
    test_profile: AnyProfile | None = None,
    *,
    others: Sequence[AnyProfile] = (),
    train_file: str | None,
    test_file: str | None = None,
    defaults: Defaults,
    proposal: dict[str, Any] | None = None,
    asked: Sequence[Sequence[Question]] = (),
) -> TaskPlan | tuple[Question, ...]:
    """Make a plan from what a person said.

    Args:
        messages: The person's messages of this task, oldest first; later ones answer questions or correct earlier ones.
        profile: A look at the training file; None when no file was sent.
        test_profile: A look at the separate test file, or at the test that a divided file brings.
        others: Further looks at it, where it holds data of several kinds; the words say which is meant.
        train_file: Id of the training file.
        test_file: Id of the test file; that of the training file where the test is a part of it.
        defaults: What the service offers and does by default.
        proposal: A planner endpoint's reading, as `accept` returned it. It fills only what nobody said.
        asked: The questions shown after each message but the last. Where they are missing, they are worked out again,
            which gives the same as long as the files and the proposal were the same.

    Returns:
        The plan, or everything that must be asked, in the order in which to ask it.
    """
    if profile and others:
        meant = chosen(messages, [profile, *others])
        if isinstance(meant, Question):
            return (meant,)
        profile = meant
    defaults = defaults.of(profile.modality) if profile else defaults
    scene = Scene(
        profile if train_file else None,
        test_profile if test_file else None,
        train_file,
        test_file,
        defaults,
        Proposal.model_validate(proposal or {}),
        "\n".join(messages),
    )
    reading = Reading()
    for place, message in enumerate(messages):
        pending = _pending(place, reading, scene, asked)
        reading = reading.then(read_answer(message, pending, scene) if pending else read_request(message, scene))
    return resolve(reading, scene)


def _pending(place: int, reading: Reading, scene: Scene, asked: Sequence[Sequence[Question]]) -> Sequence[Question]:
    if place == 0:
        return ()
    if place - 1 < len(asked):
        return asked[place - 1]
    resolved = resolve(reading, scene)
    return resolved if isinstance(resolved, tuple) else ()


def with_required(
    plan: TaskPlan,
    locked_rows: int,
    required: int | None,
    *,
    rate: float | None = None,
    gain: float | None = None,
    champion: float | None = None,
) -> TaskPlan:
    """The plan with a note on what its goal takes on the locked rows.

    Args:
        plan: The plan; an earlier note of this kind is replaced.
        locked_rows: How many rows the locked test will have, about.
        required: The fewest right answers whose lower bound meets the target; None when not even all right do.
        rate: The smallest true rate that passes with 85 % power; None where none does.
        gain: The smallest true gain that is shown with 85 % power; None where none is.
        champion: The score of whom it is to be gained on; None where there is only the base, whose score is not known.
    """
    goal = percent(plan.goal.value.target)
    if required is None:
        note = (
            f"{locked_rows} of them cannot show {goal}, even if every answer is right: the lower bound of a "
            f"perfect result is below it. "
            "Lower the goal or send more test rows; otherwise the task can only end as not reached."
        )
    else:
        share = percent(round(required / locked_rows, 3)) if locked_rows else "0 %"
        about = (
            "about " if plan.goal.value.metric in ("macro_f1", "word_accuracy", "recall_at_1", "recall_at_5") else ""
        )
        note = f"to claim {goal} with its lower bound, {about}{required} of {locked_rows} must be right ({share})."
        note += _detectable(rate, gain, champion)
    kept = tuple(each for each in plan.notes if not each.startswith(LOCKED_NOTE))
    return plan.model_copy(update={"notes": (*kept, LOCKED_NOTE + note)})


def _detectable(rate: float | None, gain: float | None, champion: float | None) -> str:
    """The smallest effects that the rows can show, in words."""
    told = [] if rate is None else [f"a model that is truly right in {percent(round(rate, 3))} passes"]
    if gain is not None:
        bar = "the base, whatever it scores," if champion is None else f"the champion's {percent(round(champion, 3))}"
        told.append(f"a true gain of {100 * gain:.1f} points on {bar} is shown")
    elif champion is not None:
        told.append(f"no gain on the champion's {percent(round(champion, 3))} is shown by so few rows")
    if not told:
        return ""
    return f" Smallest effects with 85 % power: {', and '.join(told)}; smaller ones need more rows."
