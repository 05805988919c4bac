import pytest

from agents.evaluator import diagnose
from agents.trial import Evidence, Trial
from moatelier.contracts import DevRow, EvalReport, Finding, Interval, Setback, Sourced
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


CELLS = (("a", "a", 20), ("a", "b", 9), ("b", "a", 8), ("b", "b", 22), ("c", "c", 29), ("c", "a", 1), ("d", "d", 30))


def test_two_labels_that_are_taken_for_each_other_are_named_with_their_cells() -> None:
    finding = first(trial(0.8, dev=report(0.8, confusion=CELLS)))
    assert finding.kind == "class_confusion" and '"a" and "b"' in finding.text
    assert finding.evidence["a -> b"] == "9 of 29 (17% to 49%)" and finding.evidence["b -> a"].startswith("8 of 30")


def test_errors_that_fall_anywhere_are_no_confusion() -> None:
    anywhere = tuple((one, other, 2 if one != other else 12) for one in "abcd" for other in "abcd")
    assert "class_confusion" not in kinds(trial(0.8, dev=report(0.8, confusion=anywhere)))


def test_what_is_not_learnt_yet_explains_its_confusions() -> None:
    findings = diagnose([trial(0.8, dev=report(0.8, confusion=CELLS), train_loss=1.2)], PLAN).findings
    assert [finding.kind for finding in findings] == ["underfit", "class_confusion"]


def dev_rows(count: int, **fields: object) -> tuple[DevRow, ...]:
    told = {"truth": "a", "answer": "a", "right": True, "meant": True, "loss": 0.1, "tokens": 2, "sure": 0.9} | fields
    return tuple(DevRow.model_validate({"id": f"{fields.get('answer', 'a')}-{n}", **told}) for n in range(count))


def seen(*rows: tuple[DevRow, ...], **fields: object) -> Evidence:
    return Evidence.model_validate({"rows": sum(rows, ()), **fields})


def test_labels_that_a_learnt_adapter_is_sure_are_wrong_are_a_data_fault() -> None:
    wrong = dev_rows(12, answer="b", right=False, meant=False, loss=4.0, sure=0.95)
    evidence = seen(dev_rows(30), dev_rows(30, truth="b", answer="b"), wrong)
    noisy = trial(0.8, dev=report(0.8, loss=0.35), train_loss=0.4)
    finding = diagnose([noisy], PLAN, evidence).findings[0]
    assert finding.kind == "data_fault" and finding.evidence["doubted"] == 12 and "dev:b-0" in finding.ids
    by_heart = trial(0.8, dev=report(0.8, loss=0.35), train_loss=0.01)
    assert diagnose([by_heart], PLAN, evidence).findings[0].kind == "healthy"


def test_a_wrong_form_with_the_right_content_is_a_format_error_and_with_a_wrong_one_is_not() -> None:
    odd = dev_rows(20, answer="(no label)", right=False, formed=False)
    finding = diagnose([trial(0.7)], PLAN, seen(dev_rows(40), odd, malformed=(7,))).findings[0]
    assert finding.kind == "format_errors" and finding.evidence["content_accuracy"] == 1.0
    assert "row:7" in finding.ids and "dev:(no label)-0" in finding.ids
    lost = dev_rows(20, answer="(no label)", right=False, formed=False, meant=False)
    assert diagnose([trial(0.7)], PLAN, seen(dev_rows(40), lost)).findings[0].kind == "healthy"


def test_a_training_that_flew_apart_is_not_called_underfit_first() -> None:
    curve = tuple((step, 2.0 if step < 5 else 6.0) for step in range(100))
    finding = first(trial(0.2, train_loss=6.0, curve=curve))
    assert finding.kind == "divergence"
    mended = Setback(kind="diverged", step=7, back_to=0)
    assert first(trial(0.9, setbacks=(mended,))).evidence["at_step"] == 7


def test_what_the_base_could_do_and_the_adapter_cannot() -> None:
    base = report(0.9)
    lost, kept = (trial(0.9).model_copy(update={"retention": (base, report(score))}) for score in (0.6, 0.88))
    assert first(lost).kind == "forgetting" and kinds(kept) == ["healthy"]


def test_a_loss_on_the_retention_suite_that_rose() -> None:
    quiet = EvalReport(subject="base", split="test", rows=40, kind="chat", metrics={}, loss=1.0)
    lost, kept = (
        trial(0.9).model_copy(update={"retention": (quiet, quiet.model_copy(update={"loss": loss}))})
        for loss in (1.6, 1.1)
    )
    assert first(lost).kind == "forgetting" and kinds(kept) == ["healthy"]


def liked(held_out: float, **fields: object) -> Trial:
    heard = Interval(point=held_out, low=held_out - 0.1, high=held_out + 0.1, claim_low=0, method="clopper-pearson")
    told = trial(held_out, curve=tuple((step, 0.69 - 0.0065 * step) for step in range(100)), **fields)
    both = {
        name: getattr(told, name).model_copy(update={"metrics": {"preference_accuracy": heard}})
        for name in ("dev", "select")
    }
    return told.model_copy(update=both)


def test_pairs_that_are_told_apart_in_training_and_not_held_out() -> None:
    plan = PLAN.model_copy(update={"kind": Sourced(value="preference", source="user", confidence=1, reason="")})
    assert diagnose([liked(0.52)], plan).findings[0].kind == "preference_gap"
    assert "preference_gap" not in [one.kind for one in diagnose([liked(0.8)], plan).findings]
    assert "preference_gap" not in [one.kind for one in diagnose([liked(0.52)], PLAN).findings]


def test_a_higher_score_within_the_noise_is_a_plateau() -> None:
    assert kinds(trial(0.9), trial(0.91)) == ["plateau"]


def test_findings_name_the_reports_and_jobs_they_rest_on() -> None:
    told = trial(0.5, dev=report(0.5, natural_stop_rate=0.4)).model_copy(update={"jobs": {"dev": "k1", "train": "k2"}})
    assert first(told).ids == ("report:k1", "job:k2")


def test_the_trial_is_counted_from_zero() -> None:
    assert diagnose([trial(0.5), trial(0.6)], PLAN).trial == 1


def test_pairs_that_are_told_apart_among_many_have_a_higher_loss() -> None:
    def pairs(loss: float) -> Trial:
        found = trial(0.5, train_loss=loss)
        return found.model_copy(update={"spec": found.spec.model_copy(update={"method": "contrastive"})})

    assert "underfit" not in kinds(pairs(1.2)) and first(pairs(2.0)).kind == "underfit"
