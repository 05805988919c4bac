"""What happens to private data and to rows that are too long, read from plain words with their negations."""

import re
from typing import Literal

from agents.reading import Reading, Said, joined
from agents.words import lead, quote, sentence
from moatelier.contracts import Question

Policy = Literal["redact", "reject", "allow"]

PRIVATE_MEANS: dict[Policy, str] = {
    "redact": "private data is replaced by placeholders and the rows stay",
    "reject": "rows with private data are left out",
    "allow": "private data stays as it is and the model may learn it",
}
TOO_LONG_MEANS = {
    "refuse": "rows that do not fit stop the task with their numbers, so that nothing is lost unnoticed",
    "drop": "rows that do not fit are left out",
    "truncate": "rows that do not fit have their questions cut, never their answers",
}

PRIVATE = re.compile(
    r"(?<!\w)(?:(?:private|personal|sensitive|confidential|personally identifiable)(?: customer"
    r"| user)? (?:data|information|infos?|details|stuff|things|fields|parts)"
    r"|pii|e-?mail addresses|(?:e-?mails?,? (?:and|or) )?(?:tele)?phone numbers?|(?:credit )?card numbers?"
    r"|ibans?|social security numbers?|ssns?)(?!\w)",
    re.I,
)
_ROWS = (
    r"(?:rows?|lines?|messages?|tickets?|examples?|entries|conversations?|records?|texts?|ones|those|anything"
    r"|everything|whatever)"
)
_REDACT = (
    r"(?:redact\w*|mask\w*|anonymi[sz]\w*|pseudonymi[sz]\w*|scrub\w*|censor\w*|black\w* out|blank\w* out|hid(?:e"
    r"|den|ing)|replac\w+|saniti[sz]\w+|obfuscat\w+)"
)
_REMOVE = r"(?:remov\w+|strip\w*|delet\w+|tak\w+ out|clean\w*|eras\w+|get(?:ting)? rid of)"
_DROP = (
    r"(?:drop\w*|exclud\w+|reject\w*|skip\w*|discard\w*|throw\w* (?:out|away)|thrown (?:out|away)|leav\w+ out"
    r"|left out|omit\w*|filter\w*(?: out)?|refus\w+)"
)
_KEEP = (
    r"(?:keep\w*|kept|allow\w*|leav\w+|left|retain\w*|includ\w+|accept\w*|permit\w*|preserv\w+|use|used|using"
    r"|train(?:ed)? on|learn\w*|memori[sz]\w+|stay\w*|see)"
)
_VERB = re.compile(
    rf"(?<!\w)(?:(?P<redact>{_REDACT})|(?P<drop>{_DROP})|(?P<remove>{_REMOVE})|(?P<keep>{_KEEP}))(?!\w)", re.I
)
_NOT = re.compile(
    r"(?:\bdo not|n't|\bdont|\bnever|\bnot|\bwithout|\bno need to|\bavoid|\bnor|\bno)(?: (?:ever|please|be|to"
    r"|any|it|being|have|it be|get|let|the|model|adapter))* $",
    re.I,
)
_ANY_NOT = re.compile(r"\b(?:not|never|no|none|nobody|neither|cannot)\b|n't\b", re.I)
_FINE = re.compile(
    r"\s?(?:is|are|in it|in there|there|would be|'s| )*\s?(?P<no>not |never |n't )?(?:fine|ok(?:ay)?|allowed"
    r"|welcome|acceptable|no problem|permitted)\b",
    re.I,
)
_STATED_ABSENT = re.compile(
    r"(?:there (?:is|are)|contains?|has|have|holds?|with|'s)(?: (?:absolutely|really))? no(?: \w+)? $", re.I
)


def read_policies(text: str) -> Reading:
    """What a text (normalised, file names blanked) says about private data and rows that are too long."""
    return joined([_read_private(text), _read_too_long(text)])


# ---------------------------------------------------------------- private data


def _read_private(text: str) -> Reading:
    found: dict[Policy, Said] = {}
    unsure = ""
    for match in PRIVATE.finditer(text):
        low, high = sentence(text, *match.span())
        words = re.sub(r"\s+", " ", text[low:high]).strip() if high - low <= 60 else quote(text, *match.span())
        if text[high : high + 1] == "?":  # "Private data? Throw those rows away."
            high = sentence(text, high + 1, high + 1)[1]
        policy, sure = _policy(text[low : match.start()], text[match.end() : high])
        if policy:
            found.setdefault(policy, _private_said(policy, words, sure))
        elif _ANY_NOT.search(text[low:high]) and not _STATED_ABSENT.search(text[low : match.start()]):
            unsure = words
        elif re.search(r"\bignor\w+(?: (?:the|any|all))? $", text[low : match.start()], re.I):
            unsure = words
    if not found:
        found = _read_without_noun(text)
    if len(found) > 1 or (unsure and not found):
        why = f'"{unsure}" can mean several things.' if unsure else "I read more than one wish for private data."
        return Reading(unclear={"private": private_question(why)})
    return Reading({"private": next(iter(found.values()))} if found else {})


def private_question(why: str) -> Question:
    """The question for the policy on private data."""
    return Question(
        field="private",
        text=f"{why} What shall happen to it?",
        choices=("redact it", "reject rows with it", "allow it"),
    )


def _private_said(policy: Policy, words: str, sure: float) -> Said:
    return Said(policy, f'You said "{words}": {PRIVATE_MEANS[policy]}.', sure)


def _policy(before: str, after: str) -> tuple[Policy | None, float]:
    """The policy that the words before and after `private data` ask for, and how sure that is."""
    if _STATED_ABSENT.search(before):
        return None, 0
    rows = bool(
        re.search(rf"\b{_ROWS} (?:which |that )?(?:with|contain\w*|hav\w+|hold\w*|includ\w+)(?: \w+)? ?$", before, re.I)
    )
    if fine := _FINE.match(after):
        return ("redact", 0.8) if fine["no"] or re.search(r"\bno $", before) else ("allow", 0.95)
    verbs = list(_VERB.finditer(before))
    near = verbs[-1] if verbs and len(before) - verbs[-1].end() <= 60 else None
    later = _VERB.search(after)
    if near and _crosses(before[near.end() :]) and later:
        near = None
    if near:
        return _meaning(near, bool(_NOT.search(before[: near.start()])), rows, before[: near.start()], after)
    if re.search(r"\b(?:no|without|free of|zero|free from)(?: any| the)? $", before, re.I):
        return "redact", 0.8
    if later and later.start() <= 60:
        return _meaning(
            later, bool(_NOT.search(after[: later.start()])), rows, after[: later.start()], after[later.end() :]
        )
    return None, 0


def _crosses(between: str) -> bool:
    return bool(re.search(r"[,:]|\b(?:but|and then|if)\b", between))


def _meaning(verb: re.Match[str], negated: bool, rows: bool, before: str, after: str) -> tuple[Policy | None, float]:
    if verb["redact"]:
        return ("allow", 0.8) if negated else ("redact", 1.0)
    if verb["keep"]:
        out = re.match(r"[\w ]{0,20}\b(?:out|away|secret|safe|off)\b", after)
        if negated and rows:
            return "reject", 0.9
        if not negated and not out and _ANY_NOT.search(before):
            return None, 0  # allowing is never guessed from a sentence with a "not" in it
        return ("redact", 0.85) if negated or out else ("allow", 0.95)
    if negated:
        return ("redact", 0.75) if rows or verb["drop"] else ("allow", 0.8)
    if rows or re.match(rf" ?(?:those|these|the|such|all|any|their)? ?{_ROWS}\b", after, re.I):
        return "reject", 0.9
    if verb[0].lower().startswith(("reject", "refus")):
        return "reject", 0.95
    return "redact", 0.9 if verb["remove"] else 0.75


def _read_without_noun(text: str) -> dict[Policy, Said]:
    """`anonymise it`, `do not redact`: verbs that speak of private data without naming it."""
    for match in re.finditer(r"(?<!\w)(?:redact\w*|anonymi[sz]\w*|pseudonymi[sz]\w*)(?!\w)", text, re.I):
        policy: Policy = "allow" if _NOT.search(lead(text, match.start())) else "redact"
        return {policy: _private_said(policy, quote(text, *match.span()), 0.85)}
    return {}


# ---------------------------------------------------------------- too long

LONG = re.compile(
    rf"(?:too[- ]long|over-?long|very long|longest|long) {_ROWS}|{_ROWS} (?:that |which )?(?:are |is "
    rf"|being )?(?:too long|over-?long|longer than|do(?:es)? not fit|don't fit|exceed)|too long",
    re.I,
)
_CUT = re.compile(r"(?<!\w)(?:truncat\w+|cut(?:ting)?(?: off| down)?|shorten\w*|trim\w*|clip\w*)(?!\w)", re.I)
_LEAVE_OUT = re.compile(rf"(?<!\w)(?:{_DROP}|{_REMOVE}|ignor\w+)(?!\w)", re.I)
_STOP = re.compile(r"(?<!\w)(?:refus\w+|fail\w*|stop\w*|complain\w*|error\w*|abort\w*|tell me)(?!\w)", re.I)


def _read_too_long(text: str) -> Reading:
    found: dict[str, str] = {}
    for match in LONG.finditer(text):
        low, high = sentence(text, *match.span())
        for verb, policy in ((_CUT, "truncate"), (_STOP, "refuse"), (_LEAVE_OUT, "drop")):
            for use in verb.finditer(text, low, high):
                negated = bool(_NOT.search(lead(text, use.start())))
                found.setdefault("refuse" if negated else policy, quote(text, *use.span()))
                break
            else:
                continue
            break
    if not found:
        for use in re.finditer(r"(?<!\w)truncat\w+", text, re.I):
            found["refuse" if _NOT.search(lead(text, use.start())) else "truncate"] = quote(text, *use.span())
    if len(found) > 1:
        question = Question(
            field="too_long",
            text="What shall happen to rows that are too long?",
            choices=("refuse", "drop", "truncate"),
        )
        return Reading(unclear={"too_long": question})
    said = [Said(policy, f'You said "{words}": {TOO_LONG_MEANS[policy]}.', 0.95) for policy, words in found.items()]
    return Reading({"too_long": said[0]} if said else {})
