import json
import random
from itertools import zip_longest
from pathlib import Path

import pytest
import torch

import serving.engine
from moatelier.errors import Cancelled, Conflict, IntegrityError, InvalidRequest, ModelUnavailable, NotFound
from modalities.text.template import answer_text, render
from serving.engine import Completion, Delta, Sampling, TextEngine
from serving.kv import BLOCK
from tests.serving.conftest import SYSTEM, Seal, Stopping

WORDS = "where is my order card refund please cancel the parcel has not arrived lost broken".split()


def messages(text: str, system: str | None = SYSTEM) -> list[dict[str, str]]:
    head = [{"role": "system", "content": system}] if system else []
    return [*head, {"role": "user", "content": text}]


def prompts(count: int, system: str | None = SYSTEM) -> list[list[dict[str, str]]]:
    """Conversations of very different lengths."""
    randomness = random.Random(0)
    return [messages(" ".join(randomness.choices(WORDS, k=1 + n % 13)), system) for n in range(count)]


def joined(deltas: list[Delta]) -> str:
    return "".join(delta.text for delta in deltas)


def solo(engine: TextEngine, turns: list[dict[str, str]], adapter: str | None, sampling: Sampling) -> Completion:
    return engine.generate([turns], adapter=adapter, sampling=sampling)[0]


@pytest.mark.parametrize("system", [SYSTEM, None])
@pytest.mark.parametrize("adapter", [None, "loud"])
def test_a_batch_gives_the_tokens_of_solo_runs(
    engine: TextEngine, sealed: Seal, adapter: str | None, system: str | None
) -> None:
    """Padding, the shared prefix and rows that leave must not show in any row."""
    engine.load_adapter("loud", sealed("loud"))
    asked, sampling = prompts(14, system), Sampling(10)
    together = engine.generate(asked, adapter=adapter, sampling=sampling)
    assert together == [solo(engine, turns, adapter, sampling) for turns in asked]


def test_prompts_without_a_common_beginning(engine: TextEngine) -> None:
    asked = [messages("refund", "One thing."), messages("where is my parcel", "Another."), messages("lost", None)]
    together = engine.generate(asked, adapter=None, sampling=Sampling(8))
    assert together == [solo(engine, turns, None, Sampling(8)) for turns in asked]


def test_equal_prompts_share_all_but_their_last_token(engine: TextEngine) -> None:
    answers = engine.generate([messages("refund please")] * 5, adapter=None, sampling=Sampling(8))
    assert answers == [solo(engine, messages("refund please"), None, Sampling(8))] * 5


def test_no_prompts_no_answers(engine: TextEngine) -> None:
    assert engine.generate([], adapter=None, sampling=Sampling(4)) == []


def test_greedy_agrees_with_the_models_own_generate(engine: TextEngine) -> None:
    """An independent reference: transformers' loop on the same ids."""
    model = serving.engine.load_base("tiny", "fp32").model
    for turns in prompts(4):
        ids = torch.tensor([render(engine.base.tokenizer, turns, True)])
        reference = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=15, do_sample=False, pad_token_id=0
        )[0, ids.shape[1] :].tolist()
        answer = solo(engine, turns, None, Sampling(15))
        assert list(answer.ids) == [token for token in reference if token not in engine.base.stop_ids]
        assert answer.text == answer_text(engine.base.tokenizer, answer.ids)
        assert answer.prompt_tokens == ids.shape[1]


def test_rows_stop_on_their_own_and_say_why(engine: TextEngine, turned_up: str, stopping: Stopping) -> None:
    """With many stop tokens rows end at different steps; the batch shrinks and no row is disturbed."""
    full = engine.generate(prompts(12), adapter=None, sampling=Sampling(12))
    stops = {answer.ids[n % 6] for n, answer in enumerate(full) if len(answer.ids) > 6}
    stopped, sizes = stopping(tuple(stops)), []
    rows = [stopped.submit(turns, adapters=[None], sampling=Sampling(12))[0] for turns in prompts(12)]
    while stopped.scheduler.busy:
        stopped.step()
        sizes.append(len(stopped.scheduler.running))
    for row, unstopped in zip(rows, full, strict=True):
        end = next((n for n, token in enumerate(unstopped.ids) if token in stops), None)
        assert row.ids == list(unstopped.ids[:end])
        assert row.finish_reason == ("length" if end is None else "stop")
        assert row.generated == len(row.ids) + (end is not None)
    assert len(set(sizes)) > 3, "rows that had ended stayed in the batch"


def test_a_shared_prefix_is_computed_once(engine: TextEngine) -> None:
    """A block of tokens with the same beginning is computed for the first prompt that has it, and for no other."""
    asked = [
        messages(turns[-1]["content"], "Name the category of the message as exactly as you can.")
        for turns in prompts(8)
    ]
    ids = [render(engine.base.tokenizer, turns, True) for turns in asked]
    known: set[tuple[int, ...]] = set()
    computed = 0
    for prompt in ids:
        blocks = [tuple(prompt[:end]) for end in range(BLOCK, len(prompt), BLOCK)]
        computed += len(prompt) - BLOCK * sum(block in known for block in blocks)
        known |= set(blocks)
    assert computed < sum(map(len, ids)) - 7 * BLOCK
    engine.generate(asked, adapter=None, sampling=Sampling(1))
    assert engine.passes.prompt_work == computed * 6


def test_progress_may_stop_the_work(engine: TextEngine) -> None:
    def stop(done: int) -> None:
        raise Cancelled(f"after {done}")

    with pytest.raises(Cancelled, match="after"):
        engine.generate(prompts(12), adapter=None, sampling=Sampling(2), progress=stop)
    assert engine.scheduler.busy == 0


@pytest.mark.parametrize("sampling", [Sampling(15), Sampling(15, temperature=1.0, seed=3), Sampling(15, stop=("e",))])
def test_a_stream_is_the_whole_answer_in_pieces(engine: TextEngine, sampling: Sampling) -> None:
    for turns in prompts(3):
        deltas = list(engine.stream(turns, adapter=None, sampling=sampling))
        answer = solo(engine, turns, None, sampling)
        assert joined(deltas) == answer.text
        assert [delta.completion_tokens for delta in deltas] == list(range(1, len(deltas) + 1))
        assert deltas[-1].finish_reason == answer.finish_reason
        assert deltas[-1].completion_tokens == answer.completion_tokens
        assert deltas[0].prompt_tokens == answer.prompt_tokens


def test_sampled_rows_do_not_depend_on_their_batch(engine: TextEngine) -> None:
    sampling = Sampling(15, temperature=1.0, top_p=0.9, seed=11)
    together = engine.generate(prompts(7), adapter=None, sampling=sampling)
    assert together == [solo(engine, turns, None, sampling) for turns in prompts(7)]
    assert together != engine.generate(prompts(7), adapter=None, sampling=Sampling(15, 1.0, 0.9, seed=12))


def test_several_choices_are_told_apart(engine: TextEngine) -> None:
    sampling = Sampling(12, temperature=1.0, seed=5)
    deltas = list(engine.stream(messages("refund"), adapter=None, sampling=sampling, choices=3))
    texts = [joined([delta for delta in deltas if delta.index == n]) for n in range(3)]
    assert texts[0] == solo(engine, messages("refund"), None, sampling).text
    assert len(set(texts)) == 3


def test_a_stop_string_ends_an_answer(engine: TextEngine) -> None:
    free = solo(engine, messages("where is my order"), None, Sampling(30))
    stop = free.text[4:6]
    cut = solo(engine, messages("where is my order"), None, Sampling(30, stop=(stop,)))
    assert cut.text == free.text[: free.text.index(stop)]
    assert cut.finish_reason == "stop"
    assert cut.completion_tokens < 30


def test_a_closed_stream_stops_with_its_step_and_frees_its_memory(engine: TextEngine) -> None:
    running = engine.stream(messages("refund"), adapter=None, sampling=Sampling(100))
    next(running)
    next(running)
    assert engine.memory.taken > 0
    running.close()
    assert (engine.memory.taken, engine.scheduler.busy) == (0, 0)


def test_the_context_bounds_the_answer_and_refuses_what_fills_it(engine: TextEngine) -> None:
    room = engine.context - len(render(engine.base.tokenizer, messages("lost"), True))
    answer = solo(engine, messages("lost"), None, Sampling(10_000))
    assert answer.completion_tokens <= room
    with pytest.raises(InvalidRequest, match="context of tiny is 512") as refused:
        engine.generate([messages("lost"), messages("Zq" * 600)], adapter=None, sampling=Sampling(5))
    assert refused.value.where == "messages of prompt 1"


# ------------------------------------------------------------------------------------------------------- adapters


def test_base_and_adapters_never_mix(engine: TextEngine, sealed: Seal) -> None:
    """The base answers bit by bit as before any adapter was loaded, also between two adapters' steps."""
    asked, sampling = prompts(6), Sampling(12)
    before = engine.generate(asked, adapter=None, sampling=sampling)
    engine.load_adapter("one", sealed("one", seed=1))
    alone = engine.generate(asked, adapter="one", sampling=sampling)
    engine.load_adapter("two", sealed("two", seed=2, layers=(2, 5)))
    assert engine.generate(asked, adapter=None, sampling=sampling) == before
    assert engine.generate(asked, adapter="one", sampling=sampling) == alone
    other = engine.generate(asked, adapter="two", sampling=sampling)
    assert len({tuple(a.ids for a in answers) for answers in (before, alone, other)}) == 3
    assert list(engine.adapters) == ["one", "two"]


def test_interleaved_streams_keep_their_own_adapter(engine: TextEngine, sealed: Seal) -> None:
    engine.load_adapter("one", sealed("one", seed=1))
    engine.load_adapter("two", sealed("two", seed=2))
    names, turns, sampling = (None, "one", "two"), messages("where is my parcel"), Sampling(15)
    alone = [solo(engine, turns, name, sampling).text for name in names]
    streams = [engine.stream(turns, adapter=name, sampling=sampling) for name in names]
    steps = zip_longest(*streams)  # a step of each in turn, as the scheduler does it
    texts = ["".join(delta.text for delta in deltas if delta) for deltas in zip(*steps, strict=True)]
    assert texts == alone


def test_logits_of_a_subject(engine: TextEngine, sealed: Seal) -> None:
    ids = render(engine.base.tokenizer, messages("refund"), True)
    before = engine.logits(ids, adapter=None)
    engine.load_adapter("one", sealed("one", seed=1))
    answers = {name: solo(engine, messages("refund"), name, Sampling(1)).ids for name in (None, "one")}
    for name in ("one", None, "one"):
        logits = engine.logits(ids, adapter=name)
        assert torch.equal(logits, before) == (name is None)
        assert (int(logits[-1].argmax()),) == answers[name]
    with pytest.raises(NotFound):
        engine.logits(ids, adapter="nobody")


def test_the_sealed_system_message_is_added_when_there_is_none(engine: TextEngine, sealed: Seal) -> None:
    engine.load_adapter("one", sealed("one"))
    sampling = Sampling(10)
    assert solo(engine, messages("refund", None), "one", sampling) == solo(engine, messages("refund"), "one", sampling)
    other = solo(engine, messages("refund", "Something else."), "one", sampling)
    assert other.prompt_tokens != solo(engine, messages("refund"), "one", sampling).prompt_tokens
    assert solo(engine, messages("refund", None), None, sampling).prompt_tokens < other.prompt_tokens


def test_loading_twice_is_loading_once(engine: TextEngine, sealed: Seal) -> None:
    bundle = sealed("one")
    assert engine.load_adapter("one", bundle) == engine.load_adapter("one", bundle)
    assert len(engine.adapters) == 1
    with pytest.raises(Conflict):
        engine.load_adapter("one", sealed("two", seed=2))


def test_a_reused_name_answers_with_the_new_weights(engine: TextEngine, sealed: Seal) -> None:
    turns, sampling = messages("where is my parcel"), Sampling(15)
    engine.load_adapter("name", sealed("one", seed=1))
    first = solo(engine, turns, "name", sampling)
    engine.unload_adapter("name")
    with pytest.raises(NotFound):
        solo(engine, turns, "name", sampling)
    engine.load_adapter("name", sealed("two", seed=2))
    assert solo(engine, turns, "name", sampling) != first
    engine.unload_adapter("name")
    engine.load_adapter("name", sealed("one", seed=1))
    assert solo(engine, turns, "name", sampling) == first


def test_unloading_lets_running_answers_end(engine: TextEngine, sealed: Seal) -> None:
    engine.load_adapter("one", sealed("one", seed=1))
    turns, sampling = messages("where is my parcel"), Sampling(15)
    whole = solo(engine, turns, "one", sampling).text
    running = engine.stream(turns, adapter="one", sampling=sampling)
    first = next(running)
    engine.unload_adapter("one")
    engine.load_adapter("one", sealed("two", seed=2))
    assert first.text + joined(list(running)) == whole
    engine.unload_adapter("one")
    engine.blocks.clear()
    assert engine.memory.used == 0, "the weights of an unloaded adapter stayed in memory"


def test_unknown_adapters_are_not_found(engine: TextEngine) -> None:
    with pytest.raises(NotFound):
        engine.unload_adapter("nobody")
    with pytest.raises(NotFound):
        next(engine.stream(messages("x"), adapter="nobody", sampling=Sampling(1)))


def test_a_base_that_was_not_pulled_is_not_downloaded(home: Path) -> None:
    with pytest.raises(ModelUnavailable, match="pull"):
        TextEngine("smollm2-135m-instruct")


# ------------------------------------------------------------------------------------- bundles that must not load


def refuse(engine: TextEngine, bundle: Path, match: str) -> None:
    """The bundle is refused, and the engine is as it was before."""
    before = solo(engine, messages("refund"), None, Sampling(8))
    with pytest.raises(IntegrityError, match=match):
        engine.load_adapter("bad", bundle)
    assert engine.adapters == {}
    assert solo(engine, messages("refund"), None, Sampling(8)) == before


def test_an_adapter_that_does_nothing_is_refused(engine: TextEngine, sealed: Seal) -> None:
    refuse(engine, sealed("zero", scale=0.0), "does not change")


def test_weights_that_are_not_finite_are_refused(engine: TextEngine, sealed: Seal) -> None:
    refuse(engine, sealed("nan", scale=float("nan")), "not finite")


def test_a_changed_byte_is_refused(engine: TextEngine, sealed: Seal) -> None:
    bundle = sealed("one")
    file = bundle / "adapter_model.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.chmod(0o644)
    file.write_bytes(data)
    refuse(engine, bundle, "adapter_model.safetensors")


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"base_digest": "f" * 64}, "base"),
        ({"template_digest": "f" * 64}, "template"),
        ({"stop_ids": (0,)}, "stop"),
    ],
)
def test_another_base_template_or_stop_token_is_refused(
    engine: TextEngine, sealed: Seal, fields: dict[str, object], match: str
) -> None:
    refuse(engine, sealed("one", **fields), match)


def test_a_schema_ends_a_row_and_leaves_its_neighbours_alone(engine: TextEngine) -> None:
    """Rows of one batch end at different steps, each with a whole answer, without a stop token."""
    schema = json.dumps({"type": "array", "items": {"enum": ["a", "order", "refund", 1, 77, None]}, "maxItems": 3})
    answers = engine.generate(prompts(12), adapter=None, sampling=Sampling(40, schema=schema))
    assert all(set(json.loads(answer.text)) <= {"a", "order", "refund", 1, 77, None} for answer in answers)
    assert len({answer.completion_tokens for answer in answers}) > 1
    assert {answer.finish_reason for answer in answers} == {"stop"}
    assert all(answer.completion_tokens == len(answer.ids) for answer in answers)
    assert answers == [solo(engine, turns, None, Sampling(40, schema=schema)) for turns in prompts(12)]


def test_an_answer_that_is_cut_off_says_so(engine: TextEngine) -> None:
    answer = solo(engine, messages("refund"), None, Sampling(3, schema='{"const":"where is the card"}'))
    assert answer.finish_reason == "length"
    assert len(answer.ids) == 3


def test_a_schema_that_leads_nowhere_is_an_error_in_the_middle(engine: TextEngine) -> None:
    lost = {"properties": {"a": {"$ref": "#/$defs/a"}}, "required": ["a"], "$defs": {"a": {"$ref": "#/$defs/a"}}}
    running = engine.stream(
        messages("refund"), adapter=None, sampling=Sampling(40, schema=json.dumps({"type": "object"} | lost))
    )
    assert next(running).text == "{"
    with pytest.raises(InvalidRequest, match="no way on") as error:
        list(running)
    assert error.value.where == "response_format"


def test_every_token_but_the_stop_token_has_its_log_probability(engine: TextEngine, stopping: Stopping) -> None:
    free = solo(engine, messages("refund"), None, Sampling(12))
    deltas = list(stopping((free.ids[-1],)).stream(messages("refund"), adapter=None, sampling=Sampling(12, logprobs=2)))
    stopped = free.ids[: free.ids.index(free.ids[-1])]
    assert [told.token for delta in deltas for told in delta.logprobs] == list(stopped)
    assert deltas[-1].logprobs == ()
    assert deltas[-1].completion_tokens == len(stopped) + 1


def replace(old: bytes, new: bytes) -> object:
    def change(files: dict[str, bytes]) -> None:
        assert any(old in data for data in files.values())
        files.update({name: data.replace(old, new) for name, data in files.items()})

    return change


@pytest.mark.parametrize(
    ("old", "new", "match"),
    [
        (b"layers.5.mlp.up_proj.lora_A", b"layers.9.mlp.up_proj.lora_A", "lacks"),
        (b'"r": 4', b'"r": 6', "misshapen"),
        (b'"bias": "none"', b'"bias": "all"', "does not run adapters with bias"),
        (b'"peft_type": "LORA"', b'"peft_type": "IA3"', "lacks weights"),
        (b"_proj", b"_prij", "does not fit"),
    ],
)
def test_weights_that_do_not_fit_are_refused(
    engine: TextEngine, sealed: Seal, old: bytes, new: bytes, match: str
) -> None:
    refuse(engine, sealed("one", change=replace(old, new)), match)


def test_a_good_adapter_loads_after_a_bad_one(engine: TextEngine, sealed: Seal) -> None:
    refuse(engine, sealed("bad", change=replace(b"_proj", b"_prij")), "does not fit")
    refuse(engine, sealed("bad2", change=replace(b'"r": 4', b'"r": 6')), "misshapen")
    engine.load_adapter("good", sealed("good"))
    assert solo(engine, messages("refund"), "good", Sampling(8)) != solo(engine, messages("refund"), None, Sampling(8))
