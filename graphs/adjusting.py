"""Between two trials: what the last one fell short by, what was done about it, what that brought, what comes next."""

from agents import evaluator, ladder, trainer
from agents.trainer import Change, Stop
from agents.trial import Evidence, Trial
from evals import signs
from graphs import evidence
from graphs.nodes import decided, load
from graphs.state import LifecycleState
from moatelier.contracts import DatasetCard, Diagnosis, LedgerEntry, TaskPlan
from store import artifacts, ledger


def advance(state: LifecycleState) -> LifecycleState:
    """Diagnose the last trial; the next one, or the reason to stop. The effect of the last action is written down."""
    plan, card, trials = load(state, "plan", TaskPlan), evidence.card(state), evidence.trials(state)
    seen = looked(trials[-1], card)
    diagnosis = evaluator.diagnose(trials, plan, seen)
    decided(state, "evaluator", diagnosis.model_dump(mode="json"), diagnosis.findings[0].text)
    _settle(state, plan, trials)
    told: LifecycleState = {"diagnoses": [artifacts.put_json(diagnosis)]}
    if entry := ledger.find(state["project"], state["task"], len(trials)):  # decided before a crash
        return told | {"spec": entry.spec, "stop": ""}
    step = _step(state, plan, card, trials, diagnosis, seen)
    if isinstance(step, Stop):
        decided(state, "trainer", {"stop": True}, step.reason)
        return told | {"stop": step.reason}
    entry = _written(state, step, trainer.explain(step.spec, card, trials[-1].spec), len(trials))
    decision = step.spec.model_dump(mode="json") | {"action": step.action, "level": step.level}
    decided(state, "trainer", decision | {"symptom": step.finding.kind}, entry.change)
    return told | {"spec": entry.spec, "stop": ""}


def looked(trial: Trial, card: DatasetCard) -> Evidence:
    """What is known of a trial beside its figures."""
    return Evidence(rows=signs.read(trial.dev, card), card=card, malformed=signs.malformed(card))


def failed(state: LifecycleState) -> None:
    """Note that the trial which is being made failed: what was tried did not help."""
    number = len(state.get("trials", []))
    ledger.complete(state["project"], state["task"], number, status="failed", credit=0.0)


def diagnoses(state: LifecycleState) -> list[Diagnosis]:
    """What was found of each trial so far, oldest first."""
    return [Diagnosis.model_validate(artifacts.get_json(digest)) for digest in state.get("diagnoses", [])]


def _settle(state: LifecycleState, plan: TaskPlan, trials: list[Trial]) -> None:
    """Write down what the action brought that made the last trial."""
    project, task, number = state["project"], state["task"], len(trials) - 1
    if number and (entry := ledger.find(project, task, number)):
        effect = ladder.effect(trials, plan, entry.symptom)
        ledger.complete(project, task, number, status="measured", **effect.model_dump())


def _step(
    state: LifecycleState,
    plan: TaskPlan,
    card: DatasetCard,
    trials: list[Trial],
    diagnosis: Diagnosis,
    seen: Evidence,
) -> Change | Stop:
    table = state.get("forecast", {}).get("bases", [])
    return trainer.next_step(
        plan,
        card,
        trials,
        diagnosis,
        seconds_left=evidence.seconds_left(state),
        evidence=seen,
        tallies=ladder.tallies_of(ledger.tallies(state["project"])),
        bases=[line["base"] for line in table if not line["refused"]],
    )


def _written(state: LifecycleState, step: Change, change: str, trial: int) -> LedgerEntry:
    entry = LedgerEntry(
        task=state["task"],
        trial=trial,
        symptom=step.finding.kind,
        confidence=step.finding.confidence,
        text=step.finding.text,
        ids=step.finding.ids,
        level=step.level,
        action=step.action,
        change=change,
        spec=artifacts.put_json(step.spec),
    )
    return ledger.write(state["project"], entry)
