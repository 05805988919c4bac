"""The engine for recordings: adapters in one batch, their windows, what is remembered, and what is refused."""

import asyncio
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load, save

from moatelier.errors import Cancelled, Conflict, DataError, IntegrityError, InvalidRequest, NotFound
from moatelier.job import Job
from modalities.audio.config import RATE
from modalities.audio.levels import Samples
from modalities.audio.model import load_base
from modalities.audio.sound import decode_sound
from modalities.audio.transcribing import transcribe
from modalities.bundle import WEIGHTS, bundle_folder
from serving.hearing import AudioEngine, Options
from serving.parts import Part
from serving.sampling import Sampling
from serving.senses import Sense, Senses
from store import artifacts
from tests.modalities.vision.conftest import Pulled, pulled
from tests.serving.ears import LABELS, seal_ear
from tests.sounding import sound_bytes, speech, tone
from tests.training.spoken import WORDS, card, pull_ears, rows, spec
from training.methods import audio_lora
from training.run import work

__all__ = ["pulled"]
SHORT = Options(max_tokens=10)


@pytest.fixture
def ears(pulled: Pulled, tmp_path: Path) -> str:
    return pull_ears(pulled, tmp_path / "ears")


@pytest.fixture
def engine(ears: str) -> AudioEngine:
    return AudioEngine(ears, "fp32")


def sounds(count: int, longest: float = 2.5) -> list[Samples]:
    chance = random.Random(0)
    return [speech(chance.uniform(0.5, longest), seed) for seed in range(count)]


def alone(engine: AudioEngine, sound: Samples, adapter: str | None, options: Options = SHORT) -> str:
    engine.rest()
    return engine.transcribe([sound], [adapter], options)[0].text


# --------------------------------------------------------------------------------------------------- one batch of many


def test_rows_of_a_batch_each_have_their_own_adapter(engine: AudioEngine) -> None:
    """Other adapters, other windows and rows that leave must not show in any row."""
    engine.load_adapter("one", seal_ear("one", seed=1))
    engine.load_adapter("two", seal_ear("two", seed=2))
    engine.load_adapter("wide", seal_ear("wide", seed=3, window_s=2.0))
    engine.load_adapter("writes", seal_ear("writes", seed=4, place="decoder"))
    heard = sounds(12)
    names = [None, "one", "two", "wide", "writes", "one", None, "two", "wide", "one", "two", "writes"]
    together = engine.transcribe(heard, names, SHORT)
    assert [said.text for said in together] == [alone(engine, s, n) for s, n in zip(heard, names, strict=True)]
    assert len({alone(engine, heard[0], name) for name in (None, "one", "two", "wide", "writes")}) == 5
    assert [said.seconds for said in together] == [len(sound) / RATE for sound in heard]


def test_the_base_is_what_it_was_and_an_adapter_is_what_peft_makes_of_it(engine: AudioEngine, ears: str) -> None:
    heard = sounds(3, 0.9)
    bare = load_base(ears, "fp32")
    before = [said.text for said in transcribe(bare, heard, SHORT)]
    folder = seal_ear("one", seed=1)
    engine.load_adapter("one", folder)
    assert [alone(engine, sound, None) for sound in heard] == before
    base = load_base(ears, "fp32").with_window(1.0)
    tuned = audio_lora.attach(base.model, spec("0" * 64), 0, shape=base.config)
    audio_lora.restore(tuned, load((folder / WEIGHTS).read_bytes()))
    expected = [said.text for said in transcribe(base, heard, SHORT)]
    assert [said.text for said in engine.transcribe(heard, ["one"] * 3, SHORT)] == expected != before


def test_rows_that_end_leave_with_their_adapter(engine: AudioEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """When rows leave the batch the others must keep their own adapters."""
    names = ["one", "two", "three"] * 4
    for seed, name in enumerate(names[:3]):
        engine.load_adapter(name, seal_ear(name, seed=seed + 1))
    heard = sounds(12, 0.9)
    free = engine.transcribe(heard, names, SHORT)
    ends = free[0].segments[0].tokens[2]
    monkeypatch.setattr(type(engine.base.tokenizer), "eot", property(lambda _: ends))
    engine.rest()
    batch = engine.transcribe(heard, names, SHORT)
    assert len({len(said.segments[0].tokens) for said in batch if said.segments}) > 1
    assert [said.text for said in batch] == [alone(engine, s, n) for s, n in zip(heard, names, strict=True)]


@pytest.mark.parametrize("options", [Options(beam=3, max_tokens=6), Options(timestamps=True, max_tokens=8)])
def test_whispers_own_search_has_the_adapters_too(engine: AudioEngine, options: Options) -> None:
    engine.load_adapter("one", seal_ear("one", seed=1))
    engine.load_adapter("two", seal_ear("two", seed=2))
    heard, names = sounds(4, 0.9), ["one", "two", None, "one"]
    together = [said.text for said in engine.transcribe(heard, names, options)]
    assert together == [alone(engine, s, n, options) for s, n in zip(heard, names, strict=True)]
    assert alone(engine, heard[0], "one", options) != alone(engine, heard[0], "two", options)


def test_a_recording_longer_than_the_window_is_heard_in_pieces(engine: AudioEngine) -> None:
    engine.load_adapter("one", seal_ear("one", seed=1))
    [said, silence] = engine.transcribe([speech(4.5, 1), np.zeros(RATE, np.float32)], ["one", "one"], SHORT)
    assert len(said.segments) >= 4 and said.seconds == 4.5
    assert silence.text == "" and silence.segments == ()
    assert engine.transcribe([], []) == []


@pytest.mark.parametrize("options", [SHORT, Options(timestamps=True, max_tokens=8)])
def test_windows_that_are_heard_one_by_one_say_what_the_whole_says(engine: AudioEngine, options: Options) -> None:
    engine.load_adapter("one", seal_ear("one", seed=1))
    senses = Senses(lambda modality, base: Sense(modality, base, lambda _: engine))

    async def heard(sound: Samples, model: str) -> list[str]:
        await senses.sense("ears").call(lambda _: None)  # what is not loaded has no adapters
        _, said = await senses.hear(model, Part("audio", sound_bytes(sound), "audio"), options)
        return [text async for text in said]

    for sound, windows in ((speech(0.7, 1), 1), (speech(4.5, 1), 5), (tone(3.3), 4), (np.zeros(RATE, np.float32), 0)):
        decoded = decode_sound(sound_bytes(sound), "audio").samples
        for model, name in (("one", "one"), ("ears", None)):
            pieces = asyncio.run(heard(sound, model))
            assert "".join(pieces) == engine.transcribe([decoded], [name], options)[0].text
            assert name is None or len(pieces) >= windows
    engine.load_adapter("labels", seal_ear("labels", kind="classification", place="encoder"))
    with pytest.raises(InvalidRequest, match="not words"):
        asyncio.run(heard(speech(0.7, 1), "labels"))


def test_languages_are_those_that_adapters_were_taught_in(pulled: Pulled, tmp_path: Path) -> None:
    engine = AudioEngine(pull_ears(pulled, tmp_path / "ears", 1, n_vocab=51865), "fp32")
    engine.load_adapter("german", seal_ear("german", told={"language": "de"}))
    heard = sounds(3, 0.9)
    told = engine.transcribe(heard, ["german", None, "german"], SHORT)
    assert {told[0].language, told[2].language} == {"de"}
    asked = Options(language="fr", max_tokens=10)
    assert engine.transcribe(heard[:1], ["german"], asked)[0].language == "fr"
    with pytest.raises(IntegrityError, match="no language 'klingon'"):
        engine.load_adapter("odd", seal_ear("odd", told={"language": "klingon"}))


# ------------------------------------------------------------------------------------------------------------- labels


def test_labels_come_with_their_probabilities_best_first(engine: AudioEngine) -> None:
    engine.load_adapter("short", seal_ear("short", seed=1, kind="classification", place="encoder"))
    engine.load_adapter("long", seal_ear("long", seed=2, kind="classification", place="encoder", window_s=2.0))
    heard = [*sounds(4), np.zeros(RATE, np.float32), np.zeros(0, np.float32)]
    names = ["short", "long", "long", "short", "short", "long"]
    together = engine.classify(heard, names)
    for sound, name, labels in zip(heard, names, together, strict=True):
        assert sorted(label for label, _ in labels) == list(LABELS)
        assert sum(chance for _, chance in labels) == pytest.approx(1)
        assert [chance for _, chance in labels] == sorted((chance for _, chance in labels), reverse=True)
        engine.rest()
        [by_itself] = engine.classify([sound], [name])
        assert [label for label, _ in by_itself] == [label for label, _ in labels]
        assert dict(by_itself) == pytest.approx(dict(labels), abs=1e-5)


def test_a_trained_adapter_tells_what_it_was_taught(home: Path, ears: str) -> None:
    made = rows(24)
    engine = AudioEngine(ears, "fp32")
    for kind in ("classification", "transcription"):
        wanted = spec(card(made, [], kind), epochs=25.0)
        result = work(wanted.model_dump(), Job(home / "jobs" / kind, quiet=True))
        engine.load_adapter(kind, bundle_folder(result["bundle"]))
    heard = [tone(0.6, hertz) for hertz in (200.0, 500.0, 1100.0)]
    assert [labels[0][0] for labels in engine.classify(heard, ["classification"] * 3)] == ["red", "green", "blue"]
    said = engine.transcribe(heard, ["transcription"] * 3, SHORT)
    assert {one.text for one in said} <= set(WORDS)


# ------------------------------------------------------------------------------------------- what is computed only once


def test_the_encoder_runs_once_for_many_samples_and_for_adapters_that_leave_it_alone(engine: AudioEngine) -> None:
    engine.load_adapter("a", seal_ear("a", seed=1, place="decoder"))
    engine.load_adapter("b", seal_ear("b", seed=2, place="decoder"))
    sound = speech(0.9, 1)
    drawn = engine.transcribe([sound] * 5, ["a"] * 5, Options(temperature=1.0, max_tokens=6))
    assert engine.listener.encoded == 1 and len({said.text for said in drawn}) > 1
    engine.transcribe([sound, sound], ["a", "b"], SHORT)
    assert engine.listener.encoded == 1
    engine.load_adapter("c", seal_ear("c", seed=3))
    engine.transcribe([sound, sound, sound], ["a", "c", "c"], SHORT)
    assert engine.listener.encoded == 2


def test_equal_seeds_draw_the_same_words_whatever_is_heard_beside(engine: AudioEngine) -> None:
    engine.load_adapter("a", seal_ear("a", seed=1))
    sounds = [speech(0.9, number) for number in (1, 2, 3)]

    def drawn(heard: list[Any], seed: int) -> list[str]:
        options = Options(temperature=1.0, max_tokens=6, seed=seed)
        return [said.text for said in engine.transcribe(heard, ["a"] * len(heard), options)]

    together = drawn(sounds, 7)
    assert together == [drawn([sound], 7)[0] for sound in sounds] and together != drawn(sounds, 8)


def test_what_was_said_is_remembered_by_content_and_never_by_name(engine: AudioEngine) -> None:
    engine.load_adapter("one", seal_ear("one", seed=1))
    sound = speech(0.9, 1)
    [first] = engine.transcribe([sound], ["one"], SHORT)
    assert engine.transcribe([sound.copy()], ["one"], SHORT) == [first] and engine.said.hits == 1
    engine.transcribe([sound], ["one"], Options(max_tokens=3))
    assert engine.said.hits == 1
    engine.unload_adapter("one")
    engine.load_adapter("one", seal_ear("another", seed=2))
    assert engine.transcribe([sound], ["one"], SHORT)[0].text != first.text
    engine.unload_adapter("one")
    engine.load_adapter("uno", seal_ear("one", seed=1))
    assert engine.transcribe([sound], ["uno"], SHORT) == [first] and engine.said.hits == 2


def test_memory_is_bounded_and_adapters_come_back(ears: str) -> None:
    engine = AudioEngine(ears, "fp32", memory_gb=2e-4)
    for seed in range(6):
        engine.load_adapter(f"a{seed}", seal_ear(f"a{seed}", seed=seed + 1))
    heard = sounds(6, 0.9)
    names = [f"a{seed}" for seed in range(6)]
    texts = [alone(engine, sound, name) for sound, name in zip(heard, names, strict=True)]
    engine.transcribe(sounds(60, 0.9), ["a0"] * 60, SHORT)
    assert engine.memory.evicted > 0 and engine.memory.used <= engine.memory.limit
    assert [alone(engine, sound, name) for sound, name in zip(heard, names, strict=True)] == texts


# --------------------------------------------------------------------------------------------- answers to conversations


def asked(sound: Samples, **fields: str) -> list[dict[str, Any]]:
    part = {"type": "audio", "artifact": artifacts.put_bytes(sound_bytes(sound)), **fields}
    return [{"role": "user", "content": [{"type": "text", "text": "What is said?"}, part]}]


def test_a_conversation_is_answered_by_transcript_or_label(engine: AudioEngine) -> None:
    engine.load_adapter("words", seal_ear("words", seed=1))
    engine.load_adapter("labels", seal_ear("labels", seed=2, kind="classification", place="encoder"))
    prompts = [asked(sound) for sound in sounds(3, 0.9)]
    sampling, seen = Sampling(10), []
    said = engine.generate(prompts, adapter="words", sampling=sampling, progress=seen.append)
    assert seen == [3] and all(answer.text and answer.ids and answer.finish_reason == "stop" for answer in said)
    labels = engine.generate(prompts, adapter="labels")
    assert {answer.text for answer in labels} <= set(LABELS)
    base = engine.generate(prompts, sampling=sampling)
    assert [answer.text for answer in base] != [answer.text for answer in said]
    wanted = engine.generate([asked(sound, goal="label") for sound in sounds(2, 0.9)], sampling=sampling)
    assert [answer.text for answer in wanted] == ["", ""]
    assert engine.generate([]) == []


def test_what_cannot_be_answered_is_refused_by_name(engine: AudioEngine) -> None:
    engine.load_adapter("labels", seal_ear("labels", kind="classification", place="encoder"))
    sound = speech(0.9)
    with pytest.raises(InvalidRequest, match="'labels' tells labels of recordings, not words"):
        engine.transcribe([sound], ["labels"])
    with pytest.raises(InvalidRequest, match="base tells words of recordings, not labels"):
        engine.classify([sound, sound], ["labels", None])
    with pytest.raises(NotFound, match="No adapter `nobody`"):
        engine.transcribe([sound], ["nobody"])
    with pytest.raises(InvalidRequest, match="knows English alone"):
        engine.transcribe([sound], [None], Options(language="de"))
    with pytest.raises(InvalidRequest, match="no recording") as refused:
        engine.generate([asked(sound), [{"role": "user", "content": "hello"}]])
    assert refused.value.where == "messages of prompt 1"
    with pytest.raises(DataError):
        engine.generate([[{"role": "user", "content": [{"type": "audio", "artifact": artifacts.put_bytes(b"RIFF")}]}]])

    def stop(done: int) -> None:
        raise Cancelled(f"after {done}")

    with pytest.raises(Cancelled):
        engine.generate([asked(sound)], sampling=Sampling(3), progress=stop)


# ------------------------------------------------------------------------------------------------------------- bundles


def test_a_bundle_is_loaded_once_and_a_name_stands_for_one(engine: AudioEngine) -> None:
    first, second = seal_ear("one", seed=1), seal_ear("two", seed=2)
    manifest = engine.load_adapter("one", first, pinned=True)
    assert engine.load_adapter("one", first) == manifest and list(engine.adapters) == ["one"]
    with pytest.raises(Conflict, match="Another bundle"):
        engine.load_adapter("one", second)
    engine.load_adapter("two", second)
    engine.unload_adapter("one")
    assert list(engine.adapters) == ["two"]
    with pytest.raises(NotFound):
        engine.unload_adapter("one")


def without_a_weight(files: dict[str, bytes]) -> None:
    tensors = load(files[WEIGHTS])
    tensors.pop(min(tensors))
    files[WEIGHTS] = save(tensors)


def with_a_wide_weight(files: dict[str, bytes]) -> None:
    tensors = load(files[WEIGHTS])
    tensors[min(tensors)] = torch.zeros(4, 99)
    files[WEIGHTS] = save(tensors)


def with_nothing_in_b(files: dict[str, bytes]) -> None:
    tensors = load(files[WEIGHTS])
    files[WEIGHTS] = save({k: torch.zeros_like(v) if "lora_B" in k or "head" in k else v for k, v in tensors.items()})


def with_numbers_gone(files: dict[str, bytes]) -> None:
    files[WEIGHTS] = save({k: v * float("nan") for k, v in load(files[WEIGHTS]).items()})


LABELLING = {"kind": "classification", "place": "encoder"}


@pytest.mark.parametrize(
    ("sealed", "told"),
    [
        ({"told": {"window_s": 2.0}}, "not tuned to hear 2.0 s"),
        ({"told": {"window_s": "long"}}, "not tuned to hear long s"),
        ({"told": {"window_s": 99}}, "not tuned to hear 99 s"),
        ({"base_digest": "1" * 64}, "tuned on base ears 111111111111"),
        ({"modality": "vision"}, "for vision, not for recordings"),
        ({"told": {"target_modules": ["key"]}}, "changes none of its layers"),
        ({"told": {"use_dora": True}}, "not plain LoRA"),
        ({"change": without_a_weight}, "lacks weights: 1"),
        ({"change": with_a_wide_weight}, "misshapen weights: 1"),
        ({"change": with_nothing_in_b}, "does not change what the base says"),
        ({"change": with_nothing_in_b, **LABELLING}, "does not change what the base says"),
        ({"change": with_numbers_gone}, "not finite"),
        ({"change": with_numbers_gone, **LABELLING}, "not finite"),
        ({**LABELLING, "labels": ("a", "b")}, "misshapen weights"),
        ({"told": {"modules_to_save": ["head"]}}, "not plain LoRA"),
    ],
)
def test_a_bundle_that_must_not_be_served_is_refused(engine: AudioEngine, sealed: dict[str, Any], told: str) -> None:
    folder = seal_ear("odd", **sealed)
    with pytest.raises(IntegrityError) as refused:
        engine.load_adapter("odd", folder)
    assert told in str(refused.value) and engine.adapters == {}


def test_changed_bytes_and_an_empty_folder_are_refused(engine: AudioEngine, tmp_path: Path) -> None:
    folder = seal_ear("one")
    data = bytearray((folder / WEIGHTS).read_bytes())
    data[-1] ^= 1
    (folder / WEIGHTS).write_bytes(data)
    with pytest.raises(IntegrityError, match="was changed"):
        engine.load_adapter("one", folder)
    with pytest.raises(NotFound):
        engine.load_adapter("one", tmp_path)
    assert engine.adapters == {}


def test_words_have_times_within_their_recording(engine: AudioEngine) -> None:
    engine.load_adapter("one", seal_ear("one", seed=1))
    short, long = sounds(1)[0], speech(4.0, 7)
    for said, sound in zip(
        engine.transcribe([short, long], ["one", None], Options(max_tokens=10, words=True)), (short, long), strict=True
    ):
        assert said.words is not None and " ".join(word.text for word in said.words).split() == said.text.split()
        times = [time for word in said.words for time in (word.start_s, word.stop_s)]
        assert times == sorted(times) and all(0 <= time <= len(sound) / RATE + 0.05 for time in times)
    assert engine.transcribe([short], ["one"], SHORT)[0].words is None


def test_recordings_are_embedded_by_whoever_hears_them(engine: AudioEngine) -> None:
    engine.load_adapter("one", seal_ear("one", seed=1))
    short, long = sounds(1)[0], speech(12.0, 7)
    together = engine.embed([short, long, short], [None, None, "one"])
    assert together.shape == (3, 16) and np.allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)
    engine.rest()
    assert np.allclose(engine.embed([long], [None])[0], together[1], atol=1e-4)
    assert np.abs(together[2] - together[0]).max() > 1e-3, "an adapter hears otherwise"
    assert engine.embed([], []).shape == (0, 16)
