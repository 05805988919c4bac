import pytest
import torch
from whisper.decoding import DecodingOptions, DecodingTask

from modalities.audio.greedy import greedy, prompt_of
from modalities.audio.model import AudioBase, encode, features
from tests.sounding import speech


@pytest.mark.parametrize("window", [30.0, 3.0])
@pytest.mark.parametrize("name", ["english", "multilingual"])
def test_a_batch_gives_what_whisper_gives_each_clip(name: str, window: float, request: pytest.FixtureRequest) -> None:
    base: AudioBase = request.getfixturevalue(name).with_window(window)
    clips = [speech(2.5, seed) for seed in range(6)]
    mel = features(clips, base)
    prompts = [prompt_of(base.tokenizer, "de")] * len(clips)
    heard = greedy(base.model, base.tokenizer, encode(mel, base), prompts, 40)
    language = "de" if base.config.multilingual else "en"
    for one, found in zip(mel, heard, strict=True):
        options = DecodingOptions(language=language, without_timestamps=True, fp16=False, sample_len=40)
        [expected] = DecodingTask(base.model, options).run(one[None])
        assert list(found.tokens) == expected.tokens
        assert found.mean_logprob == pytest.approx(expected.avg_logprob, abs=1e-4)
        assert found.no_speech == pytest.approx(expected.no_speech_prob, abs=1e-6)


def test_clips_end_by_themselves_and_the_others_go_on(english: AudioBase) -> None:
    base = english.with_window(2.0)
    with torch.no_grad():
        states = encode(features([speech(1.5, seed) for seed in range(12)], base), base)
        states = states * torch.linspace(0.2, 3, 12)[:, None, None]
    prompts = [prompt_of(base.tokenizer)] * 12
    eager = Eager(base.tokenizer, greedy(base.model, base.tokenizer, states, prompts, 30)[0].tokens)
    together = greedy(base.model, eager, states, prompts, 30)
    alone = [greedy(base.model, eager, states[i : i + 1], prompts[:1], 30)[0] for i in range(12)]
    assert [found.tokens for found in together] == [found.tokens for found in alone]
    assert [found.mean_logprob for found in together] == pytest.approx([f.mean_logprob for f in alone], abs=1e-5)
    assert any(found.ended for found in together)


class Eager:
    """A tokenizer whose end token is one that the random model likes."""

    def __init__(self, tokenizer: object, tokens: tuple[int, ...]) -> None:
        self._tokenizer = tokenizer
        self.eot = tokens[5]

    def __getattr__(self, name: str) -> object:
        return getattr(self._tokenizer, name)


def test_limits_and_prompts(english: AudioBase, multilingual: AudioBase) -> None:
    base = english.with_window(1.0)
    states = encode(features([speech(1.0)], base), base)
    [heard] = greedy(base.model, base.tokenizer, states, [prompt_of(base.tokenizer)], 3)
    assert len(heard.tokens) == 3 and not heard.ended
    long = prompt_of(base.tokenizer, before="word " * 400)
    assert len(long) == 226 and long[0] == base.tokenizer.sot_prev
    [heard] = greedy(base.model, base.tokenizer, states, [long])
    assert len(heard.tokens) <= 223
    assert greedy(base.model, base.tokenizer, states[:0], []) == []
    words = [multilingual.tokenizer.decode_with_timestamps([t]) for t in prompt_of(multilingual.tokenizer, "fr")]
    assert words == ["<|startoftranscript|>", "<|fr|>", "<|transcribe|>", "<|notimestamps|>"]
    assert prompt_of(multilingual.tokenizer, task="translate")[2] == multilingual.tokenizer.translate
