import pytest

from agents.evaluator import diagnose
from agents.trainer import Trial
from moatelier.contracts import Finding
from tests.agents.scenes import planned
from tests.agents.trials import report, trial

PLAN = planned("accuracy of 95%")


def first(*trials: Trial) -> Finding:
    return diagnose(trials, PLAN).findings[0]


def kinds(*trials: Trial) -> list[str]:
    return [finding.kind for finding in diagnose(trials, PLAN).findings]


def test_a_quiet_trial_is_healthy() -> None:
    assert kinds(trial(0.9)) == ["healthy"]


def test_no_finite_loss_is_a_data_fault_before_all_else() -> None:
    broken = trial(0.1, dev=report(0.1, natural_stop_rate=0.0), train_loss=float("nan"), steps=10)
    assert (first(broken).kind, first(broken).confidence) == ("data_fault", 1.0)


def test_answers_that_do_not_end() -> None:
    finding = first(trial(0.5, dev=report(0.5, natural_stop_rate=0.4)))
    assert (finding.kind, finding.evidence["natural_stop_rate"]) == ("never_stops", 0.4)


@pytest.mark.parametrize(
    "fields",
    [
        {"train_loss": 1.2},
        {"train_loss": 0.2, "curve": tuple((step, 2 - 0.018 * step) for step in range(100))},
        {"stopped": "out_of_time"},
    ],
)
def test_underfit(fields: dict[str, object]) -> None:
    assert first(trial(0.5, **fields)).kind == "underfit"


def test_a_converged_curve_is_not_underfit() -> None:
    assert "underfit" not in kinds(trial(0.9, train_loss=0.02, curve=tuple((step, 0.02) for step in range(100))))


def test_overfit_names_the_step_of_the_lowest_dev_loss() -> None:
    finding = first(trial(0.8, train_loss=0.001, dev_curve=((33, 0.2), (66, 0.1), (100, 0.3))))
    assert (finding.kind, finding.evidence["at_step"]) == ("overfit", 66.0)
    assert "step 66" in finding.text


def test_a_rise_that_training_loss_shares_is_not_overfit() -> None:
    assert "overfit" not in kinds(trial(0.8, train_loss=0.4, dev_curve=((33, 0.2), (66, 0.3))))


def test_a_plateau_needs_an_earlier_trial() -> None:
    assert kinds(trial(0.9), trial(0.9)) == ["plateau"]
    assert kinds(trial(0.9), trial(0.93)) == ["healthy"]


def test_a_stronger_finding_comes_before_a_plateau() -> None:
    assert kinds(trial(0.6), trial(0.6, train_loss=1.5)) == ["underfit", "plateau"]


def test_dev_and_select_far_apart_is_a_data_fault() -> None:
    assert first(trial(0.5, dev=0.9)).kind == "data_fault"
    assert kinds(trial(0.85, dev=0.9)) == ["healthy"]


def test_two_labels_that_make_up_the_errors_are_named_but_do_not_lead() -> None:
    mixed = report(0.85, confusion=(("a", "a", 40), ("a", "b", 4), ("b", "a", 3), ("c", "a", 2)))
    findings = diagnose([trial(0.85, dev=mixed, train_loss=1.2)], PLAN).findings
    assert [finding.kind for finding in findings] == ["underfit", "data_fault"]
    assert '"a" with "b"' in findings[1].text


def test_the_trial_is_counted_from_zero() -> None:
    assert diagnose([trial(0.5), trial(0.6)], PLAN).trial == 1


def test_pairs_that_are_told_apart_among_many_have_a_higher_loss() -> None:
    def pairs(loss: float) -> Trial:
        found = trial(0.5, train_loss=loss)
        return found.model_copy(update={"spec": found.spec.model_copy(update={"method": "contrastive"})})

    assert "underfit" not in kinds(pairs(1.2)) and first(pairs(2.0)).kind == "underfit"
