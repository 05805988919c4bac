import pytest

from agents.evaluator import diagnose
from agents.trainer import ACTIONS, Stop, Trial, best, explain, first_spec, next_spec
from moatelier.contracts import Diagnosis, TaskPlan, TrainSpec
from tests.agents.scenes import planned
from tests.agents.trials import SPEC, card, report, trial

PLAN = planned("accuracy of 95%, 20 minutes, 5 trials")
PACE = 900 / 35
"""Rows a second."""


def following(*trials: Trial, left: float = 1000) -> TrainSpec | Stop:
    return next_spec(PLAN, card(), trials, diagnose(trials, PLAN), seconds_left=left)


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
        spec = next_spec(plan, card(), trials, diagnose(trials, plan), seconds_left=36000)
        if isinstance(spec, Stop):
            break
        trials.append(trial(0.85, spec=spec))
    tried = [each.spec.model_copy(update={"max_seconds": None}).digest for each in trials]
    assert len(tried) == len(set(tried)) >= 5


def test_the_same_evidence_gives_the_same_next_spec() -> None:
    assert following(trial(0.8)) == following(trial(0.8))


def test_every_diagnosis_has_its_actions() -> None:
    kinds = {"data_fault", "underfit", "overfit", "never_stops", "plateau", "healthy"}
    assert set(ACTIONS) == kinds
    assert all(action.change(trial()).epochs > 0 for actions in ACTIONS.values() for action in actions)


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
