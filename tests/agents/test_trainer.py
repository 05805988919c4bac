from typing import get_args

import pytest

from agents.actions import ACTIONS, LEVELS, About, unfit
from agents.evaluator import diagnose
from agents.ladder import effect, on_rung, tallies_of
from agents.trainer import Change, Stop, Trial, best, explain, first_spec, next_step
from agents.trial import Evidence
from moatelier.contracts import DatasetCard, Diagnosis, Finding, Suspicion, Symptom, Tally, TaskPlan, TrainSpec
from tests.agents.scenes import planned
from tests.agents.trials import SPEC, card, report, trial

PLAN = planned("accuracy of 95%, 20 minutes, 5 trials")
PACE = 900 / 35
"""Rows a second."""


def following(*trials: Trial, left: float = 1000) -> TrainSpec | Stop:
    step = next_step(PLAN, card(), trials, diagnose(trials, PLAN), seconds_left=left)
    return step.spec if isinstance(step, Change) else step


# ---------------------------------------------------------------- the first


@pytest.mark.parametrize(
    ("rows", "epochs", "batch"),
    [(24, 12, 8), (96, 12, 16), (352, 5, 16), (540, 3, 16), (8000, 3, 16)],
)
def test_a_small_set_is_repeated_more_often(rows: int, epochs: float, batch: int) -> None:
    spec = first_spec(PLAN, card(rows), seconds_left=1800, pace=PACE)
    assert (spec.epochs, spec.batch_rows) == (epochs, batch)


def test_a_small_set_of_labels_is_learned_at_twice_the_rate() -> None:
    """Its steps are few; an answer in words keeps the lower rate, whatever its rows."""
    rates = [first_spec(PLAN, card(n), seconds_left=1800, pace=PACE).learning_rate for n in (100, 2000, 2001)]
    assert rates == [2e-3, 2e-3, 1e-3]


def test_the_first_trial_fits_into_the_time_and_leaves_some_for_another() -> None:
    spec = first_spec(PLAN, card(8000), seconds_left=600, pace=PACE)
    seconds = spec.epochs * 8000 / PACE
    assert 0 < seconds <= 0.6 * 600
    assert spec.max_seconds == 600


def test_a_single_trial_may_use_nearly_all_of_it() -> None:
    one = planned("accuracy of 95%, 15 minutes, a single trial")
    assert first_spec(one, card(8000), seconds_left=900, pace=PACE).epochs == 2
    assert first_spec(PLAN, card(8000), seconds_left=900, pace=PACE).epochs < 2


def test_the_spec_names_the_plan_and_the_data() -> None:
    plan = planned("accuracy of 95%, seed 7, use base tiny, call it desk")
    spec = first_spec(plan, card(), seconds_left=1800, pace=PACE)
    assert (spec.base, spec.suffix, spec.seed, spec.method) == ("tiny", "desk", 7, "lora")
    assert spec.dataset == card().digest
    assert spec.digest == first_spec(plan, card(), seconds_left=1800, pace=PACE).digest


@pytest.mark.parametrize("plan", [PLAN, planned("accuracy of 95%, truncate long rows")])
def test_long_rows_get_room(plan: TaskPlan) -> None:
    """The curator has cut what does not fit into the context; what is left fits, and is trained whole."""
    assert first_spec(plan, card(longest=3000), seconds_left=900, pace=PACE).max_tokens >= 3000


def test_degenerate_numbers_make_a_valid_spec() -> None:
    spec = first_spec(PLAN, card(1, mean=0), seconds_left=0, pace=0)
    assert spec.epochs > 0
    assert spec.max_seconds and spec.max_seconds > 0


# ---------------------------------------------------------------- when to stop


def test_stops_when_select_reaches_the_goal() -> None:
    outcome = following(trial(0.8), trial(0.95))
    assert isinstance(outcome, Stop)
    assert outcome.reached
    assert "0.950" in outcome.reason


def test_stops_when_trials_time_or_data_say_so() -> None:
    used = following(*(trial(0.8, spec=SPEC.model_copy(update={"seed": seed})) for seed in range(5)))
    late = following(trial(0.8), left=15)
    broken = following(trial(0.2, train_loss=float("nan")))
    for outcome, word in ((used, "5 trials"), (late, "15 s are left"), (broken, "same rows")):
        assert isinstance(outcome, Stop)
        assert not outcome.reached
        assert word in outcome.reason


def test_stops_when_no_registered_change_fits_the_time() -> None:
    assert isinstance(following(trial(0.8, train_loss=0.9), left=25), Stop)


# ---------------------------------------------------------------- adjustments


def changed(spec: TrainSpec | Stop) -> set[str]:
    assert isinstance(spec, TrainSpec), spec
    old, new = SPEC.model_dump(), spec.model_dump()
    return {name for name in new if new[name] != old[name]} - {"max_seconds"}


def test_underfit_trains_longer() -> None:
    spec = following(trial(0.6, train_loss=0.9))
    assert changed(spec) == {"epochs"}
    assert isinstance(spec, TrainSpec) and spec.epochs == 6


def test_overfit_stops_at_the_lowest_dev_loss() -> None:
    turned = trial(0.8, train_loss=0.001, dev_curve=((33, 0.2), (66, 0.1), (100, 0.3)), dev_loss=0.3)
    spec = following(turned)
    assert changed(spec) == {"epochs"}
    assert isinstance(spec, TrainSpec) and 1 <= spec.epochs < 3


def test_never_stopping_trains_longer() -> None:
    assert changed(following(trial(0.5, dev=report(0.5, natural_stop_rate=0.2)))) == {"epochs"}


def test_a_plateau_changes_something_else() -> None:
    spec = following(trial(0.85), trial(0.85, spec=SPEC.model_copy(update={"epochs": 6.0})))
    assert "layers" in changed(spec)


def test_the_best_trial_is_changed_not_the_last() -> None:
    worse = SPEC.model_copy(update={"learning_rate": 0.5})
    spec = following(trial(0.85), trial(0.3, spec=worse, train_loss=0.9))
    assert isinstance(spec, TrainSpec)
    assert spec.learning_rate <= 4e-3


def test_no_spec_is_tried_twice_and_the_search_ends() -> None:
    plan = planned("accuracy of 99%, 10 hours, 20 trials")
    trials = [trial(0.85)]
    while len(trials) < 20:
        step = next_step(plan, card(), trials, diagnose(trials, plan), seconds_left=36000)
        if isinstance(step, Stop):
            break
        trials.append(trial(0.85, spec=step.spec))
    tried = [each.spec.model_copy(update={"max_seconds": None}).digest for each in trials]
    assert len(tried) == len(set(tried)) >= 5


def test_the_same_evidence_gives_the_same_next_spec() -> None:
    assert following(trial(0.8)) == following(trial(0.8))


def suspected(count: int, rows: int = 540) -> DatasetCard:
    """A card of so many rows with labels that a second model doubts, the worst first."""
    doubted = tuple(
        Suspicion(row=n + 1, label="a", likelier="b", probability=0.9, loss=5 - n / 100) for n in range(count)
    )
    made = card(rows)
    return made.model_copy(update={"report": made.report.model_copy(update={"suspicious": doubted})})


def found(kind: Symptom, confidence: float = 0.8) -> Diagnosis:
    return Diagnosis(trial=0, findings=(Finding(kind=kind, confidence=confidence, evidence={}, text=f"{kind}."),))


def test_every_diagnosis_has_actions_that_make_valid_specs() -> None:
    assert set(ACTIONS) == set(get_args(Symptom))
    about = About(trial(), PLAN, Evidence(card=suspected(20), malformed=(3, 9)))
    for actions in ACTIONS.values():
        levels = [LEVELS.index(action.level) for action in actions]
        assert levels == sorted(levels), "a rung is finished before the next one begins"
        for action in actions:
            for spec in action.changes(about):
                assert TrainSpec.model_validate(spec.model_dump()) == spec and spec.epochs > 0


@pytest.mark.parametrize("kind", [kind for kind in get_args(Symptom) if kind != "data_fault"])
def test_every_diagnosis_changes_something(kind: Symptom) -> None:
    step = next_step(PLAN, card(), [trial(0.8)], found(kind), seconds_left=5000)
    assert isinstance(step, Change) and step.finding.kind == kind and changed(step.spec)


def test_rows_come_before_the_recipe_and_the_worst_before_the_others() -> None:
    first = next_step(PLAN, suspected(20), [trial(0.8)], found("data_fault"), seconds_left=5000)
    assert isinstance(first, Change) and (first.level, first.spec.leave_out) == ("data", tuple(range(1, 11)))
    trials = [trial(0.8), trial(0.81, spec=first.spec)]
    then = next_step(PLAN, suspected(20), trials, found("data_fault"), seconds_left=5000)
    assert isinstance(then, Change) and then.spec.leave_out == tuple(range(1, 21))


def test_no_more_than_a_part_of_the_rows_is_left_out() -> None:
    step = next_step(PLAN, suspected(40, rows=60), [trial(0.8)], found("data_fault"), seconds_left=5000)
    assert isinstance(step, Change) and len(step.spec.leave_out) == 18


def test_a_fault_of_the_rows_that_nobody_can_name_ends_the_task_with_what_to_do() -> None:
    stop = next_step(PLAN, card(), [trial(0.8)], found("data_fault"), seconds_left=5000)
    assert isinstance(stop, Stop) and "see that their labels are right" in stop.reason


def test_after_the_recipe_settings_are_drawn_then_another_method_is_taken_then_a_base_is_proposed() -> None:
    plan, trials, levels = planned("accuracy of 99%, 10 hours, 20 trials"), [trial(0.85)], []
    while True:
        step = next_step(plan, card(), trials, found("divergence"), seconds_left=36000, bases=["pico-9m"])
        if isinstance(step, Stop):
            break
        levels.append(step.level)
        trials.append(trial(0.85, spec=step.spec))
    assert levels == sorted(levels, key=LEVELS.index) and set(levels) == {"recipe", "search", "method"}
    assert 'say "use base pico-9m"' in step.reason


def test_what_a_person_chose_stays() -> None:
    plan = planned("accuracy of 99%, 10 hours, 20 trials, use LoRA, use base tiny")
    assert (plan.method.source, plan.base.source) == ("user", "user")
    trials = [trial(0.85)]
    while isinstance(
        step := next_step(plan, card(), trials, found("plateau"), seconds_left=36000, bases=["b"]), Change
    ):
        trials.append(trial(0.85, spec=step.spec))
        assert len(trials) < 20 and step.spec.method == "lora"
    assert "base" not in step.reason.split("No registered change")[1]


def test_what_has_no_meaning_for_a_method_is_not_done() -> None:
    assert "less_rank" in unfit("full") and "less_rank" not in unfit("lora")
    assert "held_more" in unfit("lora") and "held_more" not in unfit("dpo")
    assert unfit("linear_probe") >= {action.name for actions in ACTIONS.values() for action in actions}


def names(*tallies: Tally) -> list[str]:
    return [action.name for action in on_rung("underfit", "recipe", tallies_of(tallies))]


def tally(action: str, tries: int, credit: float) -> Tally:
    return Tally(symptom="underfit", action=action, tries=tries, credit=credit)


def test_one_success_does_not_win_and_several_do() -> None:
    registered = names()
    assert registered[:2] == ["more_epochs", "higher_rate"]
    assert names(tally("higher_rate", 1, 1.0)) == registered
    assert names(tally("more_epochs", 1, 0.0)) == registered
    assert names(tally("higher_rate", 4, 3.8))[0] == "higher_rate"
    assert names(tally("more_epochs", 4, 0.4))[0] == "higher_rate"
    assert names(Tally(symptom="overfit", action="higher_rate", tries=40, credit=40)) == registered


def test_an_action_that_does_nothing_does_not_fall_behind_for_it() -> None:
    """Half a credit a trial is what noise gives; the order that was registered holds for long."""
    assert names(tally("more_epochs", 3, 1.5)) == names()


def test_the_effect_is_measured_against_the_best_before_and_credited_by_its_noise() -> None:
    trials = [trial(0.7), trial(0.8), trial(0.9)]
    told = effect(trials, PLAN, "underfit")
    assert (told.measure, told.before, told.after) == ("select accuracy", 0.8, 0.9) and told.credit > 0.99
    same = effect([trial(0.8), trial(0.8)], PLAN, "underfit")
    assert same.credit == 0.5 and effect([trial(0.8), trial(0.6)], PLAN, "underfit").credit < 0.01


def test_what_was_done_about_forgetting_is_measured_on_the_retention_suite() -> None:
    base = report(0.9)
    lost = trial(0.8).model_copy(update={"retention": (base, report(0.4))})
    mended = trial(0.8).model_copy(update={"retention": (base, report(0.85))})
    told = effect([lost, mended], PLAN, "forgetting")
    assert told.measure.startswith("retention") and (told.before, told.after) == (0.4, 0.85) and told.credit > 0.99


# ---------------------------------------------------------------- best, explain


def test_best_is_by_select_then_dev_loss_then_order() -> None:
    assert best([trial(0.8), trial(0.9), trial(0.85)], "accuracy") == 1
    assert best([trial(0.9, dev_loss=0.3), trial(0.9, dev_loss=0.2)], "macro_f1") == 1
    assert best([trial(0.9, dev_loss=None), trial(0.9, dev_loss=0.2)], "accuracy") == 1
    assert best([trial(0.9), trial(0.9)], "accuracy") == 0


def test_explain_tells_what_changed() -> None:
    spec = following(trial(0.6, train_loss=0.9))
    assert isinstance(spec, TrainSpec)
    assert explain(spec, card(), SPEC) == "Changed: epochs 3.0 -> 6.0."
    assert "540 rows" in explain(SPEC, card())


def test_the_diagnosis_is_a_contract() -> None:
    diagnosis = diagnose([trial(0.8)], PLAN)
    assert Diagnosis.model_validate_json(diagnosis.model_dump_json()) == diagnosis
