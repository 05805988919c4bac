import json
from collections import Counter

import pytest

from examples.making import sets
from examples.making.shapes import NAMES
from examples.making.speech import UNSEEN
from moatelier.errors import InvalidRequest


@pytest.fixture(scope="module")
def pairs(spoken: None) -> tuple[dict[str, bytes], list[dict[str, str]]]:
    files = dict(sets.pairs(200, 0))
    return files, [json.loads(line) for line in files.pop("pairs.jsonl").splitlines()]


def test_half_say_what_is_shown(pairs: tuple[dict[str, bytes], list[dict[str, str]]]) -> None:
    files, lines = pairs
    assert Counter(line["answer"] for line in lines) == {"yes": 100, "no": 100}
    assert all((line["answer"] == "yes") == (line["shown"] == line["said"]) for line in lines)
    assert len(files) == 400 and {line[key] for line in lines for key in ("image", "audio")} == set(files)
    assert {line["licence"] for line in lines} == {"CC0-1.0"}


@pytest.mark.parametrize("side", ["shown", "said"])
def test_one_side_alone_tells_nothing(pairs: tuple[dict[str, bytes], list[dict[str, str]]], side: str) -> None:
    for answer in ("yes", "no"):
        found = Counter(line[side] for line in pairs[1] if line["answer"] == answer)
        assert found == dict.fromkeys(NAMES, 10)


def test_neither_voice_nor_order_tells_the_answer(pairs: tuple[dict[str, bytes], list[dict[str, str]]]) -> None:
    lines = pairs[1]
    assert {line["speaker"] for line in lines} == set(UNSEEN)
    for speaker in UNSEEN:
        answers = [line["answer"] for line in lines if line["speaker"] == speaker]
        assert 0.3 < answers.count("yes") / len(answers) < 0.7
    first = [line["answer"] for line in lines[:100]]
    assert 30 < first.count("yes") < 70
    wrong = {(line["shown"], line["said"]) for line in lines if line["answer"] == "no"}
    assert len(wrong) == 90, "every shape is taken for every other"


def test_the_same_seed_makes_the_same_pairs_and_no_picture_stands_elsewhere(spoken: None) -> None:
    files = dict(sets.pairs(20, 3))
    assert files == dict(sets.pairs(20, 3))
    trained = set(dict(sets.pictures(40, 3)).values()) | set(dict(sets.speech(40, 3)).values())
    assert not trained & set(files.values())


def test_what_cannot_be_balanced_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="multiple of 20"):
        list(sets.pairs(30, 0))
