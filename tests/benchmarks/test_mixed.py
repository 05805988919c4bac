"""The mixed test's parts without the pack: its splits, its merge, recipes on a table, and all of it on a tiny base."""

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from benchmarks import merged, mixed, tuning
from benchmarks.asking import messages, say
from benchmarks.mixed_lines import Line, Row, figures, line
from benchmarks.mixed_rows import DOMAINS, Sizes, read
from benchmarks.replies import Given, Key, Ranks, Table, played, together
from evals.scorers import plain
from modalities import catalogue, embedding
from modalities.bundle import WEIGHTS, bundle_folder, read_manifest
from serving.completions import Said
from serving.engine import Sampling, TextEngine
from serving.prototypes import Vectors
from serving.router import BASE, Ranked
from tests.api.fake_engine import DIMS, vector
from tests.serving.conftest import seal_adapter

FEW = Sizes(train=14, dev=4, select=2, test=3)


@pytest.fixture
def banking(tmp_path: Path) -> Path:
    """As banking77's folder, with rows that occur twice in a file and in both."""
    for name, each in (("train", 8), ("test", 2)):
        rows = [
            (f"{intent} {name} question {n}", intent)
            for intents in DOMAINS.values()
            for intent in intents.split()
            for n in range(each)
        ]
        rows += [(rows[0][0].upper(), rows[0][1]), ("card_arrival test  question 0 ", "card_arrival")]
        with (tmp_path / f"{name}.csv").open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([("text", "category"), *rows])
    return tmp_path


def test_no_text_stands_in_two_splits(banking: Path) -> None:
    parts = read(banking, FEW)
    assert list(parts) == [*DOMAINS, "support"]
    assert {tuple(map(len, part)) for part in parts.values()} == {FEW}
    texts = [plain(text.casefold()) for part in parts.values() for rows in part for text, _ in rows]
    assert len(set(texts)) == len(texts)
    for domain, intents in DOMAINS.items():
        split = dict(zip(FEW._fields, parts[domain], strict=True))
        assert all(" test " in text for text, _ in split["test"])
        assert all(" train " in text for name in ("train", "dev", "select") for text, _ in split[name])
        assert {intent for _, intent in split["train"]} == set(intents.split()), "every intent trains"
    assert read(banking, FEW) == parts


def test_a_domain_with_too_few_rows_is_refused(banking: Path) -> None:
    with pytest.raises(SystemExit, match="cards has"):
        read(banking, Sizes())


def test_whole_sizes_give_the_pooled_adapter_the_steps_of_all() -> None:
    assert Sizes().train % mixed.TRAINING["batch_rows"] == 0
    assert Sizes().test >= 200


# ------------------------------------------------------------------------------------------------------ the merge


def deltas(digest: str) -> dict[str, torch.Tensor]:
    """What an adapter adds to each weight, in float64."""
    weights = load_file(bundle_folder(digest) / WEIGHTS)
    rank = next(len(tensor) for key, tensor in weights.items() if "lora_A" in key)
    pairs = {key: (tensor, weights[key.replace("lora_A", "lora_B")]) for key, tensor in weights.items() if "_A" in key}
    return {key: 8 / rank * (b.double() @ a.double()) for key, (a, b) in pairs.items()}  # alpha is 8


def test_the_merge_adds_the_mean_of_what_its_adapters_add(tiny: str, tmp_path: Path) -> None:
    made = [seal_adapter(tiny, tmp_path, f"one{seed}", seed=seed).name for seed in range(3)]
    digest = merged.mean(made, "mean")
    assert read_manifest(bundle_folder(digest)).spec.rank == 12
    parts = [deltas(one) for one in made]
    for key, found in deltas(digest).items():
        torch.testing.assert_close(found, sum(part[key] for part in parts) / 3, rtol=0, atol=1e-12)


def test_the_merge_of_an_adapter_with_itself_says_the_same(tiny: str, tmp_path: Path) -> None:
    one = seal_adapter(tiny, tmp_path, "one", seed=1).name
    engine = TextEngine(tiny, "fp32")
    for digest in (one, twice := merged.mean([one, one], "twice")):
        engine.load_adapter(digest, bundle_folder(digest))
    ids = [5, 9, 40, 7]
    torch.testing.assert_close(engine.logits(ids, adapter=one), engine.logits(ids, adapter=twice), rtol=0, atol=1e-4)


def test_adapters_of_two_shapes_are_not_merged(tiny: str, tmp_path: Path) -> None:
    made = [seal_adapter(tiny, tmp_path, f"rank{rank}", lora={"r": rank}).name for rank in (4, 8)]
    with pytest.raises(AssertionError, match="one shape"):
        merged.mean(made, "mean")


# ------------------------------------------------------------------------------------------------------ the table

A, B, C = ("a" * 64, "b" * 64, "c" * 64)
LIKELY = Ranks({"where is it": Ranked((A, B, C, BASE), (0.4, 0.3, 0.2, 0.1), 0.9)})


def said(text: str, likelihood: float = -0.5, tokens: int = 2) -> Said:
    return Said(text, "stop", likelihood, 30, tokens)


def table(**further: Said) -> Table:
    known: dict[Key, Said] = {
        (A, "where is it", None): said("parcel", -0.9),
        (B, "where is it", None): said("refund", -0.2, tokens=3),
        (C, "where is it", None): said("refund", -0.4),
        (together([C, A, B]), "where is it", None): said("broken", tokens=6),
    }
    known |= {(A, "where is it", n): said(text) for n, text in enumerate(("x", "parcel", "y", "parcel", "z"))}
    return Table(known, mixed.TEMPERATURE)


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("auto:3, vote, gated (desk)", ("refund", 3, 7)),
        ("auto:3, selection", ("refund", 3, 7)),
        ("all adapters, selection without router", ("refund", 3, 7)),
        ("auto:3, weighted vote", ("refund", 3, 7)),
        ("auto:3, lockstep ensemble", ("broken", 3, 6)),
        ("self-MoA, 5 samples of the routed", ("parcel", 5, 10)),
    ],
)
def test_a_recipe_runs_on_what_was_said(home: Path, name: str, answer: tuple[str, int, int]) -> None:
    recipe = mixed.recipes([A, B, C])[name]
    assert played(recipe, ["where is it"] * 2, table(), LIKELY) == [answer] * 2


def test_a_recipe_that_fails_answers_nothing_and_does_not_silence_the_next_row(home: Path) -> None:
    texts = [f"row {n}" for n in range(8)]
    known: dict[Key, Said] = {(A, text, None): said("" if n < 6 else "parcel") for n, text in enumerate(texts)}
    ranks = Ranks({text: Ranked((A, BASE), (0.9, 0.1), 0.9) for text in texts})
    recipe = mixed._recipe("one", [{"auto": 1}], {"kind": "select"})
    found = played(recipe, texts, Table(known, mixed.TEMPERATURE), ranks)
    assert [one.text for one in found] == [""] * 6 + ["parcel"] * 2


def test_what_was_never_said_is_not_made_up(home: Path) -> None:
    with pytest.raises(KeyError):
        played(mixed.recipes([A, "d" * 64])["all adapters, selection"], ["where is it"], table(), LIKELY)


# ------------------------------------------------------------------------------------------------------ the engine


def test_samples_are_those_of_requests_with_these_seeds(tiny: str) -> None:
    engine = TextEngine(tiny, "fp32")
    drawn = Sampling(4, temperature=1.0, seed=0, logprobs=0)
    texts = ["where is it", "my card"]
    found = [[one.text for one in each] for each in say(engine, texts, [[None]] * 2, drawn, choices=3)]
    for place, text in enumerate(texts):
        for choice in range(3):
            alone = Sampling(4, temperature=1.0, seed=place * 3 + choice)
            assert engine.generate([messages(text)], adapter=None, sampling=alone)[0].text == found[place][choice]


@pytest.fixture
def by_words(monkeypatch: pytest.MonkeyPatch) -> None:
    """Texts are embedded by the words alone."""

    def embed(texts: Sequence[str], _: str | None = None) -> Vectors:
        return np.stack([vector(text) for text in texts]) if texts else np.zeros((0, DIMS), dtype=np.float32)

    monkeypatch.setattr(embedding, "embed", embed)
    monkeypatch.setattr(mixed, "embed", embed)
    monkeypatch.setattr(catalogue, "base_digest", lambda _: "e" * 64)


def test_the_whole_trial_on_a_tiny_base(
    tiny: str, banking: Path, tmp_path: Path, by_words: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def train(card: str, base: str, name: str, **_: object) -> str:
        return seal_adapter(base, tmp_path, name, seed=sum(name.encode())).name

    monkeypatch.setattr(tuning, "train", train)
    found = mixed.trial(banking, tiny, "fp32", FEW)
    assert all(0 <= found[name] <= 1 for name in found if "gain" not in name)
    assert found["mixed_any_oracle"] >= found["mixed_domain_oracle"]
    assert found["mixed_gain_low"] <= found["mixed_gain_points"]


def test_figures_are_of_test_rows_and_the_recipe_of_select_rows() -> None:
    rows = [Row(f"t{n}", "yes", "cards", tests=n >= 2) for n in range(6)]

    def made(said: str) -> Line:
        return line(rows, [Given("yes" if one == "1" else "no", 1, 2) for one in said])

    names = ("base", "best single adapter", "pooled adapter", "uniform merge", "self-consistency", "domain oracle")
    found = {name: made("000001") for name in names} | {"auto": made("000011"), "any adapter right": made("111111")}
    found |= {"good on select": made("110111"), "good on test": made("001111")}
    told = figures(rows, found, ["good on test", "good on select"])
    assert (told["mixed_auto"], told["mixed_best_recipe"], told["mixed_pooled"]) == (0.5, 0.75, 0.25)
    assert told["mixed_gain_points"] == pytest.approx(25) and told["mixed_pooled_gain_points"] == pytest.approx(-25)
    assert (told["mixed_any_oracle"], told["mixed_base"]) == (1, 0.25)
