"""A search in the report: its table, its pictures, and what of it is escaped and the same again."""

from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from evals import search_page
from evals.report import write_report
from moatelier.contracts import Leg, Search
from tests.evals import samples
from tests.evals.test_report import Page, decision

TRIALS = [samples.trial("f" * 64, 1, 0.9, 0.0004), samples.trial(samples.CANDIDATE, 2, 0.97, 0.001)]


def leg(trial: int, rung: int, bundle: str, loss: float, stopped: str = "paused", **changes: Any) -> Leg:
    told = TRIALS[0]["result"] | {"bundle": bundle, "steps": 10 * 3**rung, "dev_loss": loss, "stopped": stopped}
    values = {"layers": ("all", "top_third")[trial % 2], "learning_rate": 1e-3 * (trial + 1), "rank": 4 * (trial + 1)}
    fields = {
        "trial": trial,
        "rung": rung,
        "values": values,
        "spec": TRIALS[0]["spec"],
        "seconds": 20.5,
        "result": told,
    }
    return Leg.model_validate(fields | changes)


LEGS = [
    leg(0, 0, "0" * 64, 0.9),
    leg(1, 0, "1" * 64, 0.5),
    leg(2, 0, "2" * 64, 0.6),
    leg(3, 0, "", 0.0, result=None, error="The loss became nan <at> step 7."),
    leg(1, 1, "f" * 64, 0.4, "finished"),
    leg(2, 1, samples.CANDIDATE, 0.3, "finished"),
]


def page(folder: Path, legs: list[Leg]) -> str:
    written = write_report(folder, samples.task("reached"), samples.plan(), samples.card(), TRIALS, decision(), legs)
    return written.read_text(encoding="utf-8")


def test_every_trial_stands_in_the_table_best_first(tmp_path: Path) -> None:
    html = page(tmp_path, LEGS)
    assert Page(html).open == []
    rows = html[html.index("<h2>The search") :].split("</table>")[0].split("<tr")[2:]
    assert [row.split("<td>")[1].split("<")[0] for row in rows] == ["3, chosen", "2", "1", "4"]
    assert 'class="chosen"' in rows[0] and "whole" in rows[0] and "whole" in rows[1]
    for row, trial in zip(rows, reversed(TRIALS), strict=False):
        assert f'<td class="n">{trial["select"]["metrics"]["accuracy"]["point"]:.1%}</td>' in row
    assert "pruned" in rows[2] and "failed" in rows[3] and "–" in rows[3]
    assert "failed: The loss became nan &lt;at&gt; step 7." in html
    assert "4 settings were tried" in html and "Trials that were scored" in html


def test_a_task_without_a_search_has_no_such_section(tmp_path: Path) -> None:
    assert "The search</h2>" not in page(tmp_path, [])


def test_the_same_legs_give_the_same_bytes_and_json_holds_them(tmp_path: Path) -> None:
    assert page(tmp_path / "a", LEGS) == page(tmp_path / "b", LEGS)
    assert (tmp_path / "a" / "report.json").read_bytes() == (tmp_path / "b" / "report.json").read_bytes()
    assert '"search"' in (tmp_path / "a" / "report.json").read_text()


def test_the_pictures_are_xml_and_show_each_trial_and_each_setting() -> None:
    shown = search_page.shown(LEGS, TRIALS, decision(), "accuracy")
    course, settings = (str(shown["search_pictures"][name]) for name in ("course", "settings"))
    for svg in (course, settings):
        ElementTree.fromstring(svg)
    assert "training rows seen" in course and all(f">{number}<" in course for number in (1, 2, 3))
    assert all(name in settings for name in ("layers", "learning rate", "rank", "top third", "0.002"))


@pytest.mark.parametrize("legs", [LEGS[3:4], LEGS[:1]])
def test_little_is_drawn_of_little(tmp_path: Path, legs: list[Leg]) -> None:
    html = page(tmp_path, legs)
    assert "The search</h2>" in html and "What each setting did" not in html


def test_a_search_in_words() -> None:
    space = {"rank": (4, 8), "learning_rate": (1e-3,), "layers": ("top_third",)}
    told = search_page.told(Search.model_validate({"by": "tpe", "space": space}))
    assert told == "tpe: layers top third; learning rate 0.001; rank 4, 8" and search_page.told(Search()) == "none"
