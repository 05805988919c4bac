"""The budget of a task, read from plain words: training time and number of trials."""

import re

from agents.reading import Reading, Said, joined
from agents.words import NUMBER, Duration, blank, durations, in_words, lead, number, part, quote, sentence
from moatelier.contracts import Budget, Question

MAX_TRIALS = 20

_CUE = re.compile(
    r"(?:\bin|\bwithin|\bunder|<=?|\bat most|\bno more than|\bnot more than|\bno longer than|\bmax(?:imum)?\.?"
    r"|\bup to|\bless than|\bbelow"
    r"|\bspend\w*|\btakes?|\bbudget|\blimit\w*|\bfor|\btime|\bover|\bafter|\bby|\bhave|\bgive it|\bfinish\w*"
    r"|\bdone|\bcap\w*|\buse|\btraining|\bmake it|\bonly)"
    r"[\s:=]*(?:(?:a|an|the|of|is|to|at|about|around|roughly|some|only|just|budget|limit|total|most|it|you|training|time|maximum|max|be|say)\b[\s:=]*)*$",
    re.I,
)
_PER_TRIAL = re.compile(
    r"\s?(?:(?:/|per|for each|for every|each|a|every)\s?(?:trial|run|attempt|try|round)\b|(?:each|apiece)\b)", re.I
)
_TRIALS_OF = re.compile(r"\b(?:trials|runs|attempts|tries|rounds) of(?: about| at most| up to)? $", re.I)
_NOT_A_LIMIT_AFTER = re.compile(
    r"\s?(?:ago|old\b|long\b|of (?:tickets|data|messages|audio|logs?|history|traffic|chats?|support|calls?"
    r"|conversations?|recordings?)"
    r"|(?:long )?(?:clips|recordings|sounds|utterances|commands)\b"
    r"|worth of|per (?:answer|reply|message|request|row|ticket)|latency|response|window|history|sla)",
    re.I,
)
_NOT_A_LIMIT_BEFORE = re.compile(
    r"(?:\b(?:clips|recordings|files|utterances|sounds|commands|sentences) of(?: about| up to)?"
    r"|\blast|\bpast|\bprevious|\brecent|\bevery|\bsince|\bolder than|\bnext"
    r"|(?<!stop )(?<!day )(?<!end )(?<!finish )\bafter|\blatency(?: \w+){0,2}"
    r"|\b(?:answer|respon|repl)\w+ (?:in|within|under|takes?|time \w+))\s*(?:the |about )?$",
    re.I,
)
_AT_LEAST = re.compile(r"(?:\bat least|>=?|\bmin(?:imum)?(?: of)?|\bmore than|\blonger than)\s*$", re.I)
_NOT_MORE = re.compile(r"(?:\bno|\bnot|n't|never)(?: \w+)? (?:more|longer) than\s*$", re.I)
_NO_UNIT = re.compile(r"\bwithin (?P<n>\d+)(?=\s*(?:$|[.,;!?]))", re.I)
_STRONG = re.compile(r"\d\s?(?:s|m|d)$", re.I)

_TRIAL = r"(?:trials?|attempts?|tries|try|runs?|rounds?|experiments?|iterations?|shots?|goes)"
_TRIALS = (
    re.compile(rf"(?<![\w.])(?:(?:between )?(?P<low>{NUMBER})(?: ?- ?| to | or | and ))?(?P<n>{NUMBER}|a single"
rf"|single) (?:[a-z]+ing |different |more |total )?{_TRIAL}\b", re.I),
    re.compile(rf"\b(?:max(?:imum)?[_ ])?(?:trials|attempts|tries|runs)\s*(?:is|[:=]|<=?|at most|max(?:imum)?"
rf"|limit(?:ed to)?|no more than|to)+\s*(?P<n>{NUMBER})(?![\w.%])", re.I),
    re.compile(r"\b(?:try|train|run|attempt) (?:it |this |the model )?(?:just |only |exactly |no more than "
r"|at most )?(?P<n>once|twice)\b(?! (?:you|it|the|we|a|every))", re.I),
    re.compile(r"\b(?P<n>one)[- ]shot\b(?! (?:learn|prompt|class))", re.I),
)  # fmt: skip
_COUNTED = {"once": 1.0, "twice": 2.0, "single": 1.0, "a single": 1.0}


def read_limits(text: str, *, asked: bool = False) -> Reading:
    """What a text (normalised, file names blanked) says about time and trials.

    Args:
        text: The person's words.
        asked: The text answers the question for the budget.
    """
    trials = _read_trials(text)
    return joined([trials, _read_time(text, trials.said.get("trials"), asked)])


def _read_trials(text: str) -> Reading:
    found: dict[int, str] = {}
    unclear: Question | None = None
    rest = text
    for pattern in _TRIALS:
        for match in pattern.finditer(rest):
            count = _COUNTED.get(match["n"].lower()) or number(match["n"])
            words = quote(text, *match.span())
            if _AT_LEAST.search(lead(text, match.start())) and not _NOT_MORE.search(lead(text, match.start())):
                unclear = _trials_question(f'"{words}" is a lower limit; trials are counted as an upper one.')
            elif count != int(count) or not 1 <= count <= MAX_TRIALS:
                unclear = _trials_question(f'"{words}" is outside of 1 to {MAX_TRIALS} trials.')
            else:
                found.setdefault(int(count), words)
            rest = blank(rest, [match.span()])
    if len(found) > 1:
        unclear = _trials_question(
            "I read more than one number of trials.", tuple(str(count) for count in sorted(found))
        )
    if unclear:
        return Reading(unclear={"trials": unclear})
    said = [Said(count, f'You said "{words}".') for count, words in found.items()]
    return Reading({"trials": said[0]} if said else {})


def _trials_question(why: str, choices: tuple[str, ...] = ("1", "3", "5")) -> Question:
    return Question(field="trials", text=f"{why} How many trials may be trained at most?", choices=choices)


def _read_time(text: str, trials: Said | None, asked: bool) -> Reading:
    if bare := _NO_UNIT.search(text):
        return _ask_time(
            f'"{bare[0].strip()}" has no unit.', (f"{bare['n']} minutes", f"{bare['n']} hours", f"{bare['n']} seconds")
        )
    limits = [duration for duration in durations(text) if asked or _is_limit(text, duration)]
    if not limits:
        return Reading()
    vague = next((duration for duration in limits if duration.seconds is None), None)
    exact = {duration.seconds: duration for duration in limits if duration.seconds}
    if not exact:
        words = text[limits[0].start : limits[0].end]
        return _ask_time(
            f'"{words}" names no length of time that I can hold you to.' if vague else "No time at all trains nothing."
        )
    if len(exact) > 1:
        return _ask_time(
            "I read more than one length of time.", tuple(in_words(seconds) for seconds in exact if seconds)
        )
    (seconds, duration), *_ = exact.items()
    words = quote(text, duration.start, duration.end)
    before = lead(text, duration.start)
    if _AT_LEAST.search(before) and not _NOT_MORE.search(before):
        return _ask_time(f'"{words}" is a lower limit; the time is kept as an upper one.', (in_words(seconds or 0),))
    return _limit(seconds or 0.0, duration, words, text, trials)


def _limit(seconds: float, duration: Duration, words: str, text: str, trials: Said | None) -> Reading:
    sure = 1.0 if _CUE.search(lead(text, duration.start)) else 0.85
    reason = f'You said "{words}".'
    if _PER_TRIAL.match(text, duration.end) or _TRIALS_OF.search(lead(text, duration.start)):
        if not trials:
            return Reading(unclear={"trials": _trials_question(f'"{words}" is a limit for each trial.')})
        reason = f'You said "{words}": {in_words(seconds)} for each of {trials.value} trials.'
        seconds *= trials.value
    elif duration.low is not None:
        reason = f'You said "{words}"; the upper end is the limit.'
    return Reading({"seconds": Said(Budget(seconds=seconds, trials=1).seconds, reason, sure)})


def _is_limit(text: str, duration: Duration) -> bool:
    low, high = sentence(text, duration.start, duration.end)
    before, after = text[low : duration.start], text[duration.end : high]
    if _NOT_A_LIMIT_AFTER.match(after) or _NOT_A_LIMIT_BEFORE.search(before):
        return False
    if _CUE.search(before) or _AT_LEAST.search(before):
        return True
    if duration.seconds is None:
        return True
    words = text[duration.start : duration.end]
    alone = text[slice(*part(text, duration.start, duration.end))].strip(" ,.;-") == words
    return alone or not _STRONG.search(words) and duration.seconds < 86400


def _ask_time(why: str, choices: tuple[str, ...] = ("10 minutes", "30 minutes", "2 hours")) -> Reading:
    text = f"{why} How long may training take over all trials, at most?"
    return Reading(unclear={"budget": Question(field="budget", text=text, choices=choices)})
