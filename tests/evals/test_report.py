"""The report folder: everything a person needs, self-contained, and the same again."""

import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest

from evals import pictures
from evals.report import write_report
from evals.scorers import compare
from evals.statistics import CLAIM_ALPHA, clopper_pearson
from evals.verdict import judge
from moatelier.contracts import GateDecision, MetricName, TaskPlan, TrainResult
from tests.evals import samples


def decision(target: float = 0.9, champion: bool = True, metric: MetricName = "accuracy") -> GateDecision:
    answered = {
        "base": samples.answers(right=0.02, junk=0.8, seed=1),
        samples.CANDIDATE: samples.answers(right=0.97, junk=0.3, seed=2),
        samples.CHAMPION: samples.answers(right=0.9, seed=3),
    }
    reports = {subject: samples.eval_report(subject, "test", rows) for subject, rows in answered.items()}
    spec = samples.gate_spec(samples.CHAMPION if champion else None, target, metric)
    against = {
        other: compare(metric, "classification", samples.LABELS, other, answered[samples.CANDIDATE], answered[other])
        for other in ("base", samples.CHAMPION)
    }
    verdict = judge(spec.goal, reports[samples.CANDIDATE], against[samples.CHAMPION] if champion else None)
    return GateDecision(
        task=spec.task,
        candidate=spec.candidate,
        champion=spec.champion,
        locked=samples.LOCKED,
        look=2,
        looks_allowed=5,
        alpha=CLAIM_ALPHA,
        goal=spec.goal,
        candidate_report=reports[samples.CANDIDATE],
        base_report=reports["base"],
        champion_report=reports[samples.CHAMPION] if champion else None,
        against_base=against["base"],
        against_champion=against[samples.CHAMPION] if champion else None,
        **vars(verdict),
    )


TRIALS = [samples.trial("f" * 64, 1, 0.9, 0.0004), samples.trial(samples.CANDIDATE, 2, 0.97, 0.001)]


def write(folder: Path, status: str = "reached", **changes: object) -> str:
    evidence = {"plan": samples.plan(), "card": samples.card(), "trials": TRIALS, "decision": decision()} | changes
    page = write_report(folder, samples.task(status), **evidence)  # type: ignore[arg-type]  # a table of cases
    return page.read_text(encoding="utf-8")


class Page(HTMLParser):
    """Collects what would be fetched and what is left open."""

    VOID = frozenset(("meta", "br", "img", "link", "hr", "input"))

    def __init__(self, html: str) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.open: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.fetched += [value or "" for name, value in attrs if name in ("src", "href") and tag != "use"]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass


def test_the_page_says_the_claim_and_what_it_rests_on(tmp_path: Path) -> None:
    html = " ".join(write(tmp_path).split())
    judged = decision()
    metric = judged.candidate_report.metrics["accuracy"]
    for told in (
        "Goal reached",
        f"Accuracy is {metric.point:.1%} on 190 locked rows and at least ",
        "with 99% confidence; the goal is 90.0%.",
        "look 2 of 5",
        "960 rows were read and 937 kept: 560 to train on, 93 for diagnosis (dev), 94 to choose by (select)",
        "repeats an earlier row",
        "Labels to check",
        "2, chosen",
        "Twenty minutes are the default.",
        "ft:smollm2-135m-instruct:support-intents:cccccccc",
        "(no label)",
        "nor about safety, fairness or drift",
    ):
        assert told in html, told


def test_the_page_is_self_contained_and_well_formed(tmp_path: Path) -> None:
    html = write(tmp_path)
    page = Page(html)
    assert page.open == []
    assert [link for link in page.fetched if not link.startswith("#")] == []
    assert "<script" not in html and "@import" not in html and "url(http" not in html
    ids = re.findall(r'id="(.+?)"', html)
    for used in set(re.findall(r"url\(#(.+?)\)", html)):
        assert used in ids


def test_what_people_wrote_is_escaped(tmp_path: Path) -> None:
    html = write(tmp_path)
    assert "&lt;b&gt;please&lt;/b&gt;" in html and "<b>please" not in html


def test_the_same_evidence_gives_the_same_bytes(tmp_path: Path) -> None:
    write(tmp_path / "a")
    write(tmp_path / "b")
    for name in ("index.html", "report.json", "MODEL_CARD.md"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_json_holds_the_records(tmp_path: Path) -> None:
    write(tmp_path)
    record = json.loads((tmp_path / "report.json").read_bytes())
    assert record["task"]["id"] == "task-8f3k2m9q1c7e"
    assert TaskPlan.model_validate(record["plan"]) == samples.plan()
    assert GateDecision.model_validate(record["decision"]) == decision()
    assert record["trials"] == TRIALS
    assert record["dataset"]["locked"] == samples.LOCKED


def test_model_card(tmp_path: Path) -> None:
    write(tmp_path)
    card = (tmp_path / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert card.startswith("# ft:smollm2-135m-instruct:support-intents:cccccccc\n")
    for told in ("| macro_f1 | ", "| learning_rate | 0.001 |", "## Limits", "policy `redact`", "clopper-pearson"):
        assert told in card, told
    tables = [line for line in card.splitlines() if line.startswith("| ") and "locked rows" in line]
    assert tables and all(line.count("|") == 5 for line in tables)


@pytest.mark.parametrize("metric", ["accuracy", "macro_f1", "exact_match"])
def test_a_goal_not_reached_without_a_champion(tmp_path: Path, metric: MetricName) -> None:
    plan = samples.plan(0.995, metric)
    judged = decision(0.995, champion=False, metric=metric)
    html = write(tmp_path, "not_reached", plan=plan, decision=judged)
    assert "Goal not reached" in html and "The goal is not reached." in html
    assert "champion before" not in html


@pytest.mark.parametrize("status", ["failed", "cancelled"])
def test_a_task_that_ended_before_the_gate(tmp_path: Path, status: str) -> None:
    for trials in ([], TRIALS[:1]):
        html = write(tmp_path, status, trials=trials, decision=None)
        assert status.capitalize() in html and "nothing is claimed" in html
        assert "nothing is claimed" in (tmp_path / "MODEL_CARD.md").read_text(encoding="utf-8")


def test_a_failed_task_says_why(tmp_path: Path) -> None:
    task = samples.task("failed") | {"error": {"what": "The disk is full.", "where": "/data", "remedy": "Free some."}}
    page = write_report(tmp_path, task, samples.plan(), samples.card(), [], None)
    assert all(part in page.read_text() for part in ("The disk is full.", "/data", "Free some."))


def test_pictures_are_xml_with_their_text() -> None:
    judged = decision()
    result = TrainResult.model_validate(TRIALS[0]["result"])
    drawn = {
        pictures.confusion(judged.candidate_report): "(no label)",
        pictures.curves([result, result]): "trial 2, dev",
        pictures.intervals([("base", clopper_pearson(1, 190)), ("ours", clopper_pearson(180, 190))], 0.9): "94.7%",
    }
    for svg, text in drawn.items():
        ElementTree.fromstring(svg)
        assert text in svg


def test_a_curve_without_dev_and_seventy_labels_are_drawn() -> None:
    result = TrainResult.model_validate(TRIALS[0]["result"]).model_copy(update={"dev_curve": (), "dev_loss": None})
    assert "trial 1, dev" not in pictures.curves([result])
    report = decision().candidate_report.model_copy(
        update={
            "per_class": {f"label {n}": {"f1": 1.0, "support": 1.0} for n in range(70)},
            "confusion": tuple((f"label {n}", f"label {n}", 1) for n in range(70)),
        }
    )
    assert "label 69" in pictures.confusion(report)


def test_reports_and_statistics_start_without_torch() -> None:
    code = (
        "import sys, evals.report, evals.statistics, evals.scorers, evals.verdict, evals.vault; "
        "print([name for name in ('torch', 'transformers') if name in sys.modules])"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"
