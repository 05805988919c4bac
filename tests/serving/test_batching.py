"""What one engine does for many requests at once: one batch, shared prompts, bounded memory; and nobody notices."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from peft import PeftModel

import serving.engine
from moatelier.errors import IntegrityError, InvalidRequest, NotFound, ResourceExhausted
from modalities.text.template import render
from serving.engine import Sampling, TextEngine
from serving.kv import BLOCK
from serving.room import SMALLEST
from serving.row import Prompt, Row
from tests.serving.conftest import Seal
from tests.serving.test_engine import messages, prompts, solo

LONG = messages("where is my order card refund please cancel the parcel has not come broken " * 3)
ALL_LAYERS = tuple(range(6))


@pytest.fixture
def adapted(engine: TextEngine, sealed: Seal) -> TextEngine:
    """With adapters of every kind: of the top third, of all layers, of some modules, activated."""
    header = render(engine.base.tokenizer, messages("x"), True)[-3:]
    engine.load_adapter("top", sealed("top", seed=1))
    engine.load_adapter("top2", sealed("top2", seed=2))
    engine.load_adapter("all", sealed("all", seed=3, layers=ALL_LAYERS, scale=0.3))
    engine.load_adapter("some", sealed("some", seed=4, lora={"r": 3, "target_modules": ["v_proj", "down_proj"]}))
    lora = {"alora_invocation_tokens": header, "use_rslora": True}
    engine.load_adapter("activated", sealed("activated", seed=5, layers=(1, 3, 5), lora=lora))
    return engine


NAMES = [None, "top", "top2", "all", "some", "activated"]


def run(engine: TextEngine, rows: list[Row]) -> list[list[int]]:
    while any(not row.over for row in rows):
        engine.step()
    return [row.ids for row in rows]


def submit(engine: TextEngine, turns: list[dict[str, str]], name: str | None, tokens: int = 10) -> Row:
    return engine.submit(turns, adapters=[name], sampling=Sampling(tokens))[0]


def fresh(engine: TextEngine) -> list[tuple[int, ...]]:
    """Every subject's answers one after another, with nothing shared."""
    answers = []
    for name in NAMES:
        for turns in [*prompts(3), LONG]:
            engine.blocks.clear()
            answers.append(solo(engine, turns, name, Sampling(10)).ids)
    return answers


def test_any_mix_in_one_batch_gives_the_tokens_of_solo_runs(adapted: TextEngine) -> None:
    expected = fresh(adapted)
    rows = [submit(adapted, turns, name) for name in NAMES for turns in [*prompts(3), LONG]]
    assert run(adapted, rows) == [list(ids) for ids in expected]
    assert len(set(expected)) == len(expected), "two subjects say the same, so that a mistake would not show"


def test_sharing_what_was_computed_changes_no_answer(adapted: TextEngine, turned_up: str, sealed: Seal) -> None:
    expected = fresh(adapted)
    for _ in range(2):  # what the first round left, the second one meets
        answers = [solo(adapted, turns, name, Sampling(10)).ids for name in NAMES for turns in [*prompts(3), LONG]]
        assert answers == expected
    assert adapted.blocks.hits > 0
    alone = TextEngine(turned_up, "fp32", share=False)
    alone.load_adapter("top", sealed("top", seed=1))
    assert (
        alone.generate([LONG, LONG], adapter="top", sampling=Sampling(10))
        == [solo(adapted, LONG, "top", Sampling(10))] * 2
    )
    assert (len(alone.blocks), alone.blocks.hits) == (0, 0)


@pytest.mark.parametrize("name", NAMES[1:])
def test_logits_are_those_of_peft(adapted: TextEngine, name: str) -> None:
    """An independent reference, for every kind of adapter."""
    ids = render(adapted.base.tokenizer, LONG, True)
    path = adapted._adapters.get(name).path
    theirs = PeftModel.from_pretrained(serving.engine.load_base("tiny", "fp32").model, path).eval()
    with torch.inference_mode():
        expected = theirs(input_ids=torch.tensor([ids])).logits[0]
    torch.testing.assert_close(adapted.logits(ids, adapter=name), expected, rtol=1e-4, atol=1e-4)


def work(engine: TextEngine, submitting: Callable[[], list[Row]]) -> int:
    before = engine.passes.prompt_work
    run(engine, submitting())
    return engine.passes.prompt_work - before


def test_adapters_of_the_top_third_share_the_lower_layers(adapted: TextEngine) -> None:
    """Also those that are asked at once; what is beyond the last whole block is computed by each."""
    length = len(render(adapted.base.tokenizer, LONG, True))
    rest = length - (length - 1) // BLOCK * BLOCK
    names: list[str | None] = [None, "top", "top2", "some"]
    done = work(adapted, lambda: [submit(adapted, LONG, name, 1) for name in names])
    assert done == length * 4 + 3 * rest * 4 + 4 * length * 2
    again = work(adapted, lambda: [submit(adapted, LONG, name, 1) for name in names])
    assert again == 4 * rest * 6


def test_an_activated_adapter_shares_the_whole_prompt_with_the_base(adapted: TextEngine) -> None:
    solo(adapted, LONG, None, Sampling(1))
    length = len(render(adapted.base.tokenizer, LONG, True))
    own = length - (length - 3) // BLOCK * BLOCK
    assert work(adapted, lambda: [submit(adapted, LONG, "activated", 1)]) == own * 6


def test_a_prompt_that_does_not_activate_its_adapter_is_refused(engine: TextEngine, sealed: Seal) -> None:
    with pytest.raises(InvalidRequest, match="activate"):
        engine.load_adapter("never", sealed("never", lora={"alora_invocation_tokens": [7, 7, 7, 7]}))
    assert engine.adapters == {}


def test_a_reused_name_never_meets_an_old_cache(engine: TextEngine, sealed: Seal) -> None:
    """vllm#42125: the prefix cache was keyed by the adapter's name."""
    engine.load_adapter("name", sealed("one", seed=1, layers=ALL_LAYERS))
    first = solo(engine, LONG, "name", Sampling(10))
    assert solo(engine, LONG, "name", Sampling(10)) == first
    engine.unload_adapter("name")
    engine.load_adapter("name", sealed("two", seed=2, layers=ALL_LAYERS))
    second = solo(engine, LONG, "name", Sampling(10))
    engine.blocks.clear()
    assert solo(engine, LONG, "name", Sampling(10)) == second != first
    engine.unload_adapter("name")
    engine.load_adapter("other", sealed("one", seed=1, layers=ALL_LAYERS))
    assert solo(engine, LONG, "other", Sampling(10)) == first


def test_several_adapters_choose_each_token_together(adapted: TextEngine) -> None:
    names = ["top", None, "all", "activated"]
    row = adapted.submit(LONG, adapters=names, sampling=Sampling(8))[0]
    said = run(adapted, [row, submit(adapted, LONG, "top2")])[0]
    ids = render(adapted.base.tokenizer, LONG, True)
    expected: list[int] = []
    for _ in range(8):
        known = [adapted.logits([*ids, *expected], adapter=name)[-1].log_softmax(-1) for name in names]
        expected.append(int(torch.stack(known).sum(0).argmax()))
    assert said == expected
    assert said != list(solo(adapted, LONG, "top", Sampling(8)).ids)


def test_scores_are_the_log_probabilities_of_a_forward_pass(adapted: TextEngine) -> None:
    rows = [render(adapted.base.tokenizer, turns, True) for turns in [*prompts(4), LONG, LONG]]
    for name in NAMES:
        for ids, told in zip(rows, adapted.score(rows, adapter=name), strict=True):
            known = adapted.logits(ids, adapter=name).log_softmax(-1)
            expected = [float(row[token]) for row, token in zip(known, ids[1:], strict=False)]
            assert told == pytest.approx(expected, abs=1e-4)
    with pytest.raises(InvalidRequest, match="context"):
        adapted.score([[5] * 513], adapter=None)


def test_scores_of_an_ending_need_its_prompt_only_once(adapted: TextEngine) -> None:
    prompt = render(adapted.base.tokenizer, LONG, True)
    endings = [prompts(8)[n][0]["content"] for n in range(8)]
    rows = [
        [*prompt, *adapted.base.tokenizer(text, add_special_tokens=False).input_ids[: n + 1]]
        for n, text in enumerate(endings)
    ]
    for name in NAMES:
        expected = [told[len(prompt) - 1 :] for told in adapted.score(rows, adapter=name)]
        for share in (False, True):
            if not share:
                adapted.blocks.clear()
            before = adapted.passes.prompt_work
            made = [
                row
                for ids in rows
                for row in adapted.enter(
                    [Prompt(ids)], adapters=[name], sampling=Sampling(1), scored=0, told_from=len(prompt), limit=0
                )
            ]
            assert run(adapted, made) == [[]] * len(rows)
            for row, told in zip(made, expected, strict=True):
                assert [token.logprob for token in row.prompt_told] == pytest.approx(told, abs=1e-4)
            tokens = len(prompt) * (not share) + sum(BLOCK + len(ids) - len(prompt) for ids in rows)
            assert adapted.passes.prompt_work - before <= tokens * len(adapted.model.layers)


# --------------------------------------------------------------------------------------------------------- memory


def engine_with(base: str, slots: float) -> TextEngine:
    """An engine whose memory holds so many of the smallest rooms' slots."""
    engine = TextEngine(base, "fp32")
    engine.memory.limit = int(slots * SMALLEST * engine._shape().token_bytes)
    return engine


def test_rows_that_outgrow_memory_stop_and_go_on_unharmed(engine: TextEngine, turned_up: str) -> None:
    sampling = Sampling(200, temperature=1.0, seed=3)
    expected = engine.generate(prompts(6), adapter=None, sampling=sampling)
    tight = engine_with(turned_up, 6)
    rows = [tight.submit(turns, adapters=[None], sampling=sampling)[0] for turns in prompts(6)]
    preempted = 0
    while any(not row.over for row in rows):
        tight.step()
        preempted = max(preempted, len(tight.scheduler.preempted))
        assert tight.memory.used <= tight.memory.limit
    assert [row.text.text for row in rows] == [answer.text for answer in expected]
    assert preempted > 0
    assert tight.memory.taken == 0


def test_one_that_can_never_fit_is_told_so_and_the_others_go_on(turned_up: str) -> None:
    engine = engine_with(turned_up, 1.5)
    large, small = submit(engine, LONG, None, 300), submit(engine, messages("refund"), None, 5)
    run(engine, [large, small])
    assert isinstance(large.error, ResourceExhausted) and "MOATELIER_ENGINE_MEMORY_GB" in str(large.error)
    assert small.error is None and len(small.ids) == 5
    assert engine.memory.taken == 0


def test_adapters_are_evicted_and_come_back(engine: TextEngine, sealed: Seal) -> None:
    names = [f"a{n}" for n in range(4)]
    for n, name in enumerate(names):
        engine.load_adapter(name, sealed(name, seed=n, layers=ALL_LAYERS), pinned=n == 0)
    expected = [solo(engine, messages("refund"), name, Sampling(8)) for name in names]
    engine.blocks.clear()
    size = engine.memory.used // 4
    engine.memory.limit = 2 * size + 3 * SMALLEST * engine._shape().token_bytes
    for _ in range(2):
        assert [solo(engine, messages("refund"), name, Sampling(8)) for name in names] == expected
    assert engine.memory.evicted > 0
    assert engine._adapters.get("a0").weights is not None, "a pinned adapter was evicted"
    assert list(engine.adapters) == names


def test_an_adapter_whose_bundle_is_gone_fails_its_own_requests(engine: TextEngine, sealed: Seal) -> None:
    bundle = sealed("a", layers=ALL_LAYERS)
    engine.load_adapter("a", bundle)
    engine.memory.limit = engine.memory.used + SMALLEST * engine._shape().token_bytes
    assert engine.memory.take(engine.memory.limit - 1)  # somebody needed all of it once
    engine.memory.give(engine.memory.limit - 1)
    (bundle / "manifest.json").rename(bundle / "elsewhere")
    bad, good = submit(engine, messages("refund"), "a"), submit(engine, messages("refund"), None)
    run(engine, [bad, good])
    assert isinstance(bad.error, NotFound) and good.error is None
    assert engine.memory.taken == 0


def test_a_waiting_row_does_not_read_its_bundle_in_vain(
    engine: TextEngine, sealed: Seal, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.load_adapter("a", sealed("a", layers=ALL_LAYERS))
    engine.memory.limit = engine.memory.used + 2 * SMALLEST * engine._shape().token_bytes
    assert engine.memory.take(engine.memory.limit - 1)  # the adapter has to go
    engine.memory.give(engine.memory.limit - 1)
    engine.memory.limit = 2 * SMALLEST * engine._shape().token_bytes + 1000
    reads: list[Path] = []
    read = engine._adapters._read
    monkeypatch.setattr(engine._adapters, "_read", lambda folder: (reads.append(folder), read(folder))[1])
    running, waiting = submit(engine, messages("refund"), None, 60), submit(engine, messages("refund"), "a", 5)
    run(engine, [running])
    assert len(reads) <= 1 and not waiting.ids
    engine.memory.limit = 10**9
    run(engine, [waiting])
    assert len(waiting.ids) == 5


def test_logits_that_are_not_finite_end_their_own_row_and_stay_out_of_the_cache(
    engine: TextEngine, sealed: Seal
) -> None:
    engine.load_adapter("a", sealed("a"))
    weights = engine._adapters.get("a").weights
    assert weights is not None
    next(iter(weights.parts.values())).b.fill_(float("nan"))  # as one that overflows on some prompts
    engine.passes.forget(engine._adapters.get("a"))
    broken, fine = submit(engine, LONG, "a"), submit(engine, LONG, None)
    expected = list(solo(engine, LONG, None, Sampling(10)).ids)
    run(engine, [broken, fine])
    assert isinstance(broken.error, IntegrityError) and "not finite" in str(broken.error)
    assert fine.ids == expected
    assert all(bool(block.keys.isfinite().all()) for block in engine.blocks._blocks.values())


def test_a_request_that_cannot_be_made_whole_leaves_nothing(engine: TextEngine, sealed: Seal) -> None:
    header = render(engine.base.tokenizer, messages("x"), True)[-3:]
    engine.load_adapter("act", sealed("act", lora={"alora_invocation_tokens": header}))
    ids = render(engine.base.tokenizer, messages("refund"), True)
    for rows in ([ids, [1, 2, 3]], [ids, []]):
        with pytest.raises(InvalidRequest):
            engine.score(rows, adapter="act")
    assert engine.scheduler.busy == 0 and engine._adapters.get("act").users == 0


# ------------------------------------------------------------------------------------------------------ schedules

steps = st.lists(
    st.one_of(
        st.tuples(st.just("submit"), st.integers(0, 3), st.integers(0, 2)),
        st.tuples(st.just("ensemble"), st.integers(0, 3), st.integers(1, 2)),
        st.tuples(st.just("step"), st.integers(1, 6), st.just(0)),
        st.tuples(st.just("cancel"), st.integers(0, 30), st.just(0)),
        st.tuples(st.just("late"), st.integers(0, 30), st.just(0)),
        st.tuples(st.just("load"), st.integers(0, 1), st.integers(0, 2)),
        st.tuples(st.just("reload"), st.integers(0, 1), st.integers(0, 2)),
        st.tuples(st.just("unload"), st.integers(0, 1), st.just(0)),
    ),
    min_size=15,
    max_size=30,
)


QUESTIONS = prompts(12)[2::3]
"""Few, so that they come again, also to another bundle under the same name."""


class Scene:
    """One engine under a schedule, with what each answer must be."""

    def __init__(self, engine: TextEngine, bundles: list[Path], expected: dict[Any, list[int]]) -> None:
        self.engine, self.bundles, self.expected = engine, bundles, expected
        self.loaded: dict[str, int] = {}
        self.rows: list[tuple[Row, Any]] = []

    def act(self, action: str, first: int, second: int) -> None:
        engine = self.engine
        if action == "submit":
            names = [None, *sorted(self.loaded)]
            self.ask(first, [names[second % len(names)]])
        elif action == "ensemble":
            self.ask(first, [None, *sorted(self.loaded)][: second + 1])
        elif action == "step":
            for _ in range(first):
                engine.step()
        elif action in ("cancel", "late") and self.rows:
            row = self.rows[first % len(self.rows)][0]
            if action == "cancel":
                engine.cancel(row)
                assert all(lane.seat is None for lane in row.lanes)
            else:
                row.deadline = 0.0
        if action in ("unload", "reload") and f"n{first}" in self.loaded:
            engine.unload_adapter(f"n{first}")
            del self.loaded[f"n{first}"]
        if action in ("load", "reload") and f"n{first}" not in self.loaded:
            self.load(f"n{first}", second)

    def load(self, name: str, bundle: int) -> None:
        """In so little memory it may be refused, while rows hold what they use; then nothing has changed."""
        try:
            self.engine.load_adapter(name, self.bundles[bundle])
            self.loaded[name] = bundle
        except ResourceExhausted:
            assert self.engine.memory.held and name not in self.engine.adapters

    def end(self) -> None:
        """Leave the engine as it was, for the next schedule."""
        for row in [row for row, _ in self.rows if not row.over]:
            self.engine.cancel(row)
        for name in list(self.engine.adapters):
            self.engine.unload_adapter(name)

    def ask(self, prompt: int, names: list[str | None]) -> None:
        row = self.engine.submit(QUESTIONS[prompt], adapters=names, sampling=Sampling(12))[0]
        self.rows.append((row, (prompt, tuple(self.loaded[name] if name else None for name in names))))

    def check(self) -> None:
        memory = self.engine.memory
        assert memory.used <= memory.limit
        seats = [lane.seat for row in self.engine.scheduler.running for lane in row.lanes]
        assert all(seats) and len({id(seat) for seat in seats}) == len(seats)
        assert sum(len(room.seats) for room in self.engine._loop.rooms) == len(seats)
        for row, asked in self.rows:
            known = self.expected.get(asked)
            assert known is None or row.ids == known[: len(row.ids)], "an answer is not that of a quiet engine"


def test_no_schedule_breaks_an_answer_or_leaks(engine: TextEngine, turned_up: str, sealed: Seal) -> None:
    """500 random schedules of submit, cancel, load, unload and deadlines, in little memory."""
    bundles = [sealed(f"b{n}", seed=n, layers=layers) for n, layers in enumerate([(4, 5), ALL_LAYERS, (4, 5)])]
    expected: dict[Any, list[int]] = {}
    for n, bundle in enumerate(bundles):
        engine.load_adapter(str(n), bundle)
    for prompt, turns in enumerate(QUESTIONS):
        for n in (None, 0, 1, 2):
            expected[prompt, (n,)] = list(solo(engine, turns, None if n is None else str(n), Sampling(12)).ids)
    weights = max(loaded.weights.bytes for loaded in engine._adapters.all() if loaded.weights)
    tight = engine_with(turned_up, 0)
    tight.memory.limit = 3 * weights + 6 * SMALLEST * tight._shape().token_bytes

    @settings(max_examples=500, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(steps)
    def schedule(actions: list[tuple[str, int, int]]) -> None:
        scene = Scene(tight, bundles, expected)
        try:
            for action in actions:
                scene.act(*action)
                scene.check()
            run(tight, [row for row, _ in scene.rows])
            for row, asked in scene.rows:
                done = row.error is None and len(row.ids) == 12
                assert not done or asked not in expected or row.ids == expected[asked]
        finally:
            scene.end()
        assert (tight.scheduler.busy, tight.memory.taken, tight.memory.held) == (0, 0, 0)
        tight.blocks.clear()
        assert tight.memory.used == 0

    schedule()
    assert tight.blocks.hits > 100 and tight.memory.evicted > 100, "the schedules hardly met what they are about"
