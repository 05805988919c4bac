"""What counts as success, read from plain words: the measure and the number.

Every number that could be a goal is given a role by the words around it, since a request also holds percentages that
are none: today's result, a share of rows, a level of confidence, an improvement. Only a number that is meant as a
goal becomes one; two different goals, a range or a measure that we do not have become a question.
"""

import re
from dataclasses import dataclass

from agents.cues import METRIC_NAMES, SETTING, Role, metrics_named, nearest_metric, role_of_number
from agents.reading import Reading, Said
from agents.words import NUMBER, blank, lead, number, percent, quote, sentence
from moatelier.contracts import Goal, MetricName, Question

MEASURES = "I can measure accuracy, macro-F1 and exact match"
WER = "Word accuracy is one less the word error rate."
RECALL = "Recall is taken as recall@1: what belongs together is found first."

_NO_RANK = r"(?<![\w.@])(?<!@ )(?!(?<=recall at )\d+\b)"
"""Before a number: it is none of a measure's own, as in recall@1."""
_NUMERIC = r"(?:\d+(?:\.\d+)?|\.\d+)"
_RANGE = re.compile(
    rf"{_NO_RANK}(?P<low>{NUMBER})\s?%?\s?(?:(?<=[\d%\s])-(?=\s?\d)|\bto\b|\bup to\b|\bor\b"
    rf"|\band\b)\s?(?P<high>{NUMBER})\s?%"
    r"|(?<![\w.])(?P<low_>0?\.\d+)\s?(?:-|\bto\b|\bor\b|\band\b)\s?(?P<high_>0?\.\d+|1\.0)(?![\w.]*\d)",
    re.I,
)
_OUT_OF = re.compile(
    rf"{_NO_RANK}(?P<part>{NUMBER}) (?:out )?(?:of|in)(?: every| each)? (?P<whole>10|ten|20|twenty|100|(?:a "
    rf"|one )?hundred)(?!\w)",
    re.I,
)
_PERCENT = re.compile(rf"(?<![\w.])(?P<n>{NUMBER})\s?%", re.I)
_DECIMAL = re.compile(r"(?<![\w.,%/-])(?P<n>0?\.\d{1,4}|1\.0+)(?![\w%]|\.\d)")
_LINK = (
    r"(?:[\s:=~]|>=?|(?:score|rate|of|is|at|least|be|to|the|should|must|has|above|over|around|about|reach|reaches"
    r"|minimum|min|want|need)\b)*"
)
_BARE = (
    re.compile(
        rf"(?:accura\w+|acc|recall ?@ ?[15]|recall|f[- _]?1(?:[- ]?(?:score|macro))?|f-score|exact[- ]match|target"
        rf"|goal){_LINK}(?<![\w.])(?P<n>\d\d\d?)(?![\w%/:]|\.\d|[- ]?(?:s|m|h|sec|min|hour|day|row|trial|run|tr"
        rf"|att|epoch)\w*\b)",
        re.I,
    ),
    re.compile(r"(?<![\w.])(?P<n>[5-9]\d|100) (?=accuracy|acc\b|macro|f1|exact match)", re.I),
)


@dataclass(frozen=True)
class _Candidate:
    value: float
    role: Role
    metric: str | None
    words: str
    start: int
    sure: float = 1.0


def read_goal(text: str, *, asked: bool = False) -> Reading:
    """What a text (normalised, file names blanked) says about success.

    Args:
        text: The person's words.
        asked: The text answers the question for the goal, so that a number alone is one.
    """
    candidates, unclear = _ranges(text)
    rest = text
    for candidate_start, candidate_end in [match.span() for match in _RANGE.finditer(text)]:
        rest = blank(rest, [(candidate_start, candidate_end)])
    for match in [*_OUT_OF.finditer(rest), *_PERCENT.finditer(rest), *_DECIMAL.finditer(rest)]:
        candidates.append(_candidate(text, match))
    candidates += _bare_numbers(rest, candidates)
    if asked and not any(candidate.role in ("goal", "error", "weak") for candidate in candidates):
        candidates += _number_alone(text)
    return _decide(text, candidates, unclear)


def _ranges(text: str) -> tuple[list[_Candidate], Question | None]:
    found: list[_Candidate] = []
    for match in _RANGE.finditer(text):
        low, high = (match["low"], match["high"]) if match["low"] else (match["low_"], match["high_"])
        scale = 100.0 if match["low"] else 1.0
        values = (number(low) / (scale if number(low) > 1 else 1), number(high) / scale)
        role, metric = (
            role_of_number(text, match.start(), match.end()),
            nearest_metric(text, match.start(), match.end()),
        )
        words = quote(text, *match.span())
        if role == "baseline" and re.search(r"\bfrom\s*$", lead(text, match.start()), re.I):
            found.append(_Candidate(values[1], "goal", metric, words, match.start()))
        elif role in ("goal", "weak"):
            metric = metric if metric in METRIC_NAMES else None
            return found, _which_goal(
                [(metric, value) for value in values], f'You wrote "{words}". Which number must be reached?'
            )
    return found, None


def _candidate(text: str, match: re.Match[str]) -> _Candidate:
    start, end = match.span()
    groups = match.groupdict()
    role, metric = role_of_number(text, start, end), nearest_metric(text, start, end)
    if groups.get("whole"):
        value = number(groups["part"]) / number(groups["whole"])
        role = role if metric in ("(right)", *METRIC_NAMES) else "aside"
    elif match[0].endswith("%"):
        value = number(groups["n"]) / 100
    else:
        value = number(groups["n"])
        if role == "weak":
            role = "goal" if metric else "aside"
        if SETTING.search(text[max(0, start - 40) : start]):
            role = "aside"
    return _Candidate(value, role, metric, quote(text, start, end), start)


def _bare_numbers(text: str, found: list[_Candidate]) -> list[_Candidate]:
    """`accuracy of 95`, `F1 85`: a number of two digits right beside a measure is a percentage."""
    bare: list[_Candidate] = []
    for pattern in _BARE:
        for match in pattern.finditer(text):
            place = match.start("n")
            if any(candidate.start == place for candidate in [*found, *bare]):
                continue
            role, metric = role_of_number(text, place, match.end("n")), nearest_metric(text, place, match.end("n"))
            role = "goal" if role == "weak" else role
            bare.append(_Candidate(number(match["n"]) / 100, role, metric, quote(text, *match.span()), place, 0.85))
    return bare


def _number_alone(text: str) -> list[_Candidate]:
    match = re.fullmatch(
        rf"\W*(?:[a-z' ]+ )?(?P<n>{_NUMERIC}|{NUMBER})(?: (?:please|then|is (?:fine|enough|ok)|would do"
        rf"|or (?:more|better)))?\W*",
        text,
        re.I,
    )
    value = number(match["n"]) if match else 0.0
    if not match or not (0 < value <= 1 or 50 <= value <= 100) or match["n"].lower() in ("1", "one"):
        return []
    share = value if value <= 1 else value / 100
    return [_Candidate(share, "goal", nearest_metric(text, *match.span("n")), text.strip(), match.start("n"), 0.9)]


def _decide(text: str, candidates: list[_Candidate], unclear: Question | None) -> Reading:
    spoken = {name for _, name in metrics_named(text)}
    named: set[str] = {name for name in spoken if name in METRIC_NAMES}
    only = next(iter(named)) if len(named) == 1 else "(recall)" if not named and "(recall)" in spoken else None
    metric_only = {"metric": _metric_said(only, text)} if only else {}
    goals = [c for c in candidates if c.role in ("goal", "error")] or [c for c in candidates if c.role == "weak"]
    if unclear:
        return Reading(metric_only, {"goal": unclear})
    if not goals:
        return Reading(metric_only, _no_goal_but(candidates))
    if question := _impossible(text, goals) or _several(goals, named, text):
        return Reading({}, {"goal": question})
    return Reading(_goal_said(goals, named, text))


def _goal_said(goals: list[_Candidate], named: set[str], text: str) -> dict[str, Said]:
    first = goals[0]
    value = round(1 - first.value if first.role == "error" else first.value, 6)
    sure = {"goal": 1.0, "error": 0.9}.get(first.role, 0.75) * first.sure
    reason = f'You said "{first.words}"'
    reason += f", so {percent(value)} must be right." if first.role == "error" else "."
    metric: str | None = next((c.metric for c in goals if c.metric and c.metric in METRIC_NAMES), None)
    metric = "accuracy" if first.role == "error" and metric != "word_accuracy" else metric
    metric = metric or (next(iter(named)) if len(named) == 1 else None)
    for told in ("(recall)", "(right)"):
        if metric is None and any(c.metric == told for c in goals):
            metric = told
    said = {"target": Said(value, reason, sure)}
    return said | ({"metric": _metric_said(metric, text)} if metric else {})


def _metric_said(metric: str, text: str) -> Said:
    if metric == "(right)":
        return Said("right", "The share of right answers is meant.", 0.95)
    if metric == "(recall)":
        return Said("recall", RECALL, 0.9)
    if metric == "accuracy" and re.search(r"micro[- ]?(?:averaged )?f", text, re.I):
        return Said("accuracy", "With one label a row, micro-F1 is the same number as accuracy.", 0.9)
    if metric == "macro_f1" and not re.search("macro", text, re.I):
        return Said("macro_f1", "F1 over several classes is taken as macro-F1: every class counts alike.", 0.9)
    if metric == "word_accuracy" and re.search(r"\bwer\b", text, re.I):
        return Said("word_accuracy", WER)
    return Said(metric, f"You named {METRIC_NAMES[_metric(metric)]}.")


def _metric(name: str) -> MetricName:
    return next((known for known in METRIC_NAMES if known == name), "accuracy")


def _no_goal_but(candidates: list[_Candidate]) -> dict[str, Question]:
    for candidate in candidates:
        if candidate.role == "relative":
            return {"goal": goal_question(f'"{candidate.words}" is a change. Which figure must be reached in the end?')}
        if candidate.metric and candidate.metric.startswith("(none)"):
            name = candidate.metric.removeprefix("(none) ")
            return {"goal": goal_question(f"{MEASURES}, not {name}. What must be reached?")}
        if candidate.role == "upper":
            choices = [(_known(candidate.metric), candidate.value)]
            return {
                "goal": _which_goal(choices, f'"{candidate.words}" is an upper limit. What must be reached at least?')
            }
        if candidate.role == "baseline":
            return {"goal": goal_question(f'"{candidate.words}" is how it is now. What must be reached?')}
    return {}


def _impossible(text: str, goals: list[_Candidate]) -> Question | None:
    for goal in goals:
        if goal.metric and goal.metric.startswith("(none)"):
            name = goal.metric.removeprefix("(none) ")
            if goal.role != "error" or name.startswith(("cer", "char")):
                value = 1 - goal.value if goal.role == "error" else goal.value
                return which_measure(name, value)
        if goal.value > 1:
            return goal_question(f'"{goal.words}" is more than everything. What must be reached?')
        if goal.value <= 0 or (goal.value < 0.02 and goal.role != "error"):
            meant = [(_known(goal.metric), 100 * goal.value), (_known(goal.metric), goal.value)]
            return _which_goal([m for m in meant if 0 < m[1] <= 1], f'"{goal.words}" is very little. What is meant?')
    return None


def _several(goals: list[_Candidate], named: set[str], text: str) -> Question | None:
    distinct = list(dict.fromkeys((_known(c.metric), 1 - c.value if c.role == "error" else c.value) for c in goals))
    values = {round(value, 6) for _, value in distinct}
    metrics = {metric for metric, _ in distinct if metric}
    if len(values) > 1 or len(metrics) > 1:
        return _which_goal(distinct, "A task has one goal, and I read more than one. Which one counts?")
    if len(named) > 1 and _share_a_sentence(text, goals[0], named):
        return _which_goal([(metric, values.copy().pop()) for metric in sorted(named)], "Which measure counts?")
    return None


def _share_a_sentence(text: str, goal: _Candidate, named: set[str]) -> bool:
    low, high = sentence(text, goal.start, goal.start)
    return {name for _, name in metrics_named(text[low:high]) if name in named} == named


def _known(metric: str | None) -> str | None:
    return metric if metric in METRIC_NAMES else None


def goal_text(goal: Goal) -> str:
    """A goal in words that `read_goal` reads back: `accuracy of at least 92 %`."""
    return f"{METRIC_NAMES[goal.metric]} of at least {percent(goal.target)}"


def which_measure(name: str, value: float) -> Question:
    """The question about a measure that we do not have, whose number is known."""
    text = f"{MEASURES}, not {name}. Which of them do you want?"
    return _which_goal([("accuracy", value), ("macro_f1", value)], text)


def _which_goal(options: list[tuple[str | None, float]], text: str) -> Question:
    goals = [
        Goal(metric=_metric(metric or "accuracy"), target=round(value, 6))
        for metric, value in options
        if 0 <= value <= 1
    ]
    named = any(metric for metric, _ in options)
    return Question(
        field="goal",
        text=text,
        choices=tuple(dict.fromkeys(goal_text(g) if named else f"at least {percent(g.target)}" for g in goals)),
    )


def goal_question(why: str, metric: str | None = None) -> Question:
    """The question for a number, with examples that can be chosen."""
    name = METRIC_NAMES[_metric(metric or "accuracy")]
    return Question(
        field="goal",
        text=f"{why} For instance: {name} of at least 90 %.",
        choices=tuple(f"{name} of at least {value} %" for value in (85, 90, 95)),
    )
