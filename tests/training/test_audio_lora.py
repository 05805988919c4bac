"""LoRA in Whisper: where it sits, that it starts as the base, learns, and comes back."""

import json

import pytest
import torch

from moatelier.contracts import TrainSpec
from moatelier.errors import InvalidRequest
from modalities.audio.classifier import Classifier
from modalities.audio.config import AudioConfig, lora_targets
from modalities.audio.greedy import greedy, prompt_of
from modalities.audio.model import AudioBase, encode, features
from modalities.audio.teaching import lesson, loss
from tests.modalities.audio.conftest import base_of
from tests.sounding import DIMS, speech, tiny_whisper, tone
from training.methods import audio_lora

TINY_EN = AudioConfig.model_validate(
    DIMS
    | {"n_audio_state": 384, "n_text_state": 384, "n_audio_head": 6, "n_text_head": 6}
    | {"n_audio_layer": 4, "n_text_layer": 4}
)


def spec(**changes: object) -> TrainSpec:
    fields = {"method": "audio_lora", "base": "b", "dataset": "d", "suffix": "s", "rank": 4, "alpha": 8.0}
    return TrainSpec.model_validate(fields | changes)


@pytest.fixture
def base() -> AudioBase:
    return base_of(tiny_whisper()).with_window(1.0)


def test_rank_8_in_both_halves_has_147456_parameters() -> None:
    assert len(lora_targets(TINY_EN)) * 8 * (384 + 384) == 147_456
    assert len(lora_targets(TINY_EN, "encoder")) == 8 and len(lora_targets(TINY_EN, "decoder")) == 16
    assert lora_targets(TINY_EN, "encoder", 3) == ["encoder.blocks.3.attn.query", "encoder.blocks.3.attn.value"]


@pytest.mark.parametrize(("place", "count"), [("both", 12), ("encoder", 4), ("decoder", 8)])
def test_it_starts_as_the_base_and_learns_what_is_said(base: AudioBase, place: str, count: int) -> None:
    clips, words = [tone(0.8, 300), speech(0.9, 3)], ["red", "blue"]
    lessons, mel = [lesson(base, word) for word in words], features(clips, base)
    before = encode(mel, base)
    first = loss(base.model, lessons, before)
    model = audio_lora.attach(base.model, spec(), 0, shape=base.config, place=place)  # type: ignore[arg-type]  # a Place
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    assert len(trained) == 2 * count and len(audio_lora.weights(model)) == 2 * count
    assert torch.equal(encode(mel, base), before)
    optimizer = torch.optim.Adam(trained, lr=0.05)
    for _ in range(12):
        optimizer.zero_grad()
        now = loss(base.model, lessons, encode(mel, base))
        now.backward()
        optimizer.step()
    assert now < 0.95 * first
    heard = greedy(base.model, base.tokenizer, encode(mel, base).detach(), [prompt_of(base.tokenizer)] * 2, 5)
    assert heard[0].tokens  # whatever it says: the layers with adapters are those that decode


def test_weights_come_back_bit_by_bit_and_the_configuration_is_canonical(base: AudioBase) -> None:
    model = audio_lora.attach(base.model, spec(seed=3), 1, shape=base.config)
    kept = {name: torch.randn_like(tensor) for name, tensor in audio_lora.weights(model).items()}
    assert not any("encoder.blocks.0" in name for name in kept)
    audio_lora.restore(model, kept)
    assert all(torch.equal(tensor, kept[name]) for name, tensor in audio_lora.weights(model).items())
    told = json.loads(audio_lora.config(model, "whisper-tiny.en"))
    assert told["base_model_name_or_path"] == "whisper-tiny.en"
    assert sorted(told["target_modules"]) == sorted(lora_targets(base.config, "both", 1))
    again = base_of(tiny_whisper()).with_window(1.0)
    other = audio_lora.attach(again.model, spec(seed=3), 1, shape=base.config)
    fresh = audio_lora.weights(other)
    third = base_of(tiny_whisper()).with_window(1.0)
    same = audio_lora.weights(audio_lora.attach(third.model, spec(seed=3), 1, shape=base.config))
    assert all(torch.equal(fresh[name], same[name]) for name in fresh)


def test_a_head_is_tuned_with_the_encoder(base: AudioBase) -> None:
    clips = [tone(0.5, 200 + 300 * (i % 2)) for i in range(6)]
    mel, samples = features(clips, base), torch.tensor([len(clip) for clip in clips])
    target = torch.tensor([0, 1] * 3)
    model = audio_lora.attach(Classifier(base.model.encoder, 2), spec(), 0, shape=base.config)
    assert {name.rpartition(".")[0].rpartition(".")[2] for name in audio_lora.weights(model)} >= {"head", "lora_A"}
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.02)
    for _ in range(25):
        optimizer.zero_grad()
        now = torch.nn.functional.cross_entropy(model(mel, samples), target)
        now.backward()
        optimizer.step()
    assert now < 0.3


def test_nothing_to_adapt_is_refused(base: AudioBase) -> None:
    with pytest.raises(InvalidRequest, match="nothing to adapt"):
        audio_lora.attach(base.model, spec(), 2, shape=base.config, place="encoder")
