import numpy as np
import pytest
import torch
from torch.nn.functional import log_softmax

from moatelier.errors import DataError
from modalities.audio.classifier import Classifier, mean_states
from modalities.audio.config import RATE
from modalities.audio.data import AudioRow
from modalities.audio.model import AudioBase, encode, features
from modalities.audio.teaching import fitted, head_of, lesson, likelihoods, loss, row_likelihood, trained_states
from store import artifacts
from tests.sounding import sound_bytes, speech, tone


def test_only_text_and_end_are_trained(english: AudioBase, multilingual: AudioBase) -> None:
    taught = lesson(english, " Hello there. ")
    assert english.tokenizer.decode_with_timestamps(list(taught.ids[: taught.start])) == (
        "<|startoftranscript|><|notimestamps|>"
    )
    assert english.tokenizer.decode_with_timestamps(list(taught.trained)) == " Hello there.<|endoftext|>"
    assert multilingual.tokenizer.decode_with_timestamps(list(lesson(multilingual, "ja", "de").ids)) == (
        "<|startoftranscript|><|de|><|transcribe|><|notimestamps|> ja<|endoftext|>"
    )
    with pytest.raises(DataError, match="more than anyone speaks in 3 s") as caught:
        lesson(english.with_window(3.0), "word " * 70, where="train, row 3")
    assert caught.value.where == "train, row 3"


def test_the_loss_is_a_hand_calculation_and_padding_changes_nothing(english: AudioBase) -> None:
    base = english.with_window(2.0)
    clips, texts = [speech(1.5, 1), speech(1.9, 2)], ["one", "a much longer sentence than that"]
    lessons = [lesson(base, text) for text in texts]
    states = encode(features(clips, base), base)
    expected = []
    for taught, state in zip(lessons, states, strict=True):
        logits = base.model.decoder(torch.tensor([taught.ids[:-1]]), state[None])[0]
        found = log_softmax(logits, -1)[torch.arange(len(taught.ids) - 1), list(taught.ids[1:])]
        expected.append(-found[taught.start - 1 :])
    assert float(loss(base.model, lessons, states)) == pytest.approx(float(torch.cat(expected).sum()), abs=1e-3)
    hidden, targets = trained_states(base.model, lessons, states)
    assert targets.tolist() == [token for taught in lessons for token in taught.trained]
    assert hidden.shape == (len(targets), 16) and head_of(base.model)(hidden).shape == (len(targets), 51864)
    assert likelihoods(base, clips, lessons) == pytest.approx([-float(part.mean()) for part in expected], abs=1e-4)


def test_recordings_fit_whole_or_without_their_silence(english: AudioBase) -> None:
    quiet = np.zeros(2 * RATE, np.float32)
    assert len(fitted(tone(1.0), 2.0)) == RATE
    assert len(fitted(np.concatenate([quiet, tone(1.0), quiet]), 2.0)) == pytest.approx(1.2 * RATE, abs=700)
    with pytest.raises(DataError, match=r"has 3\.0 s of speech, where 2 s fit"):
        fitted(tone(3.0), 2.0, "row 1")
    with pytest.raises(DataError, match="is silent"):
        fitted(quiet, 2.0)


@pytest.mark.usefixtures("home")
def test_the_likelihood_of_a_row(english: AudioBase) -> None:
    base = english.with_window(2.0)
    found = row_likelihood(base)

    def row(sound: np.ndarray, text: str) -> AudioRow:
        return AudioRow(1, artifacts.put_bytes(sound_bytes(sound)), "", text=text)

    assert found(row(speech(1.5), "hello")) < -5
    assert found(row(tone(4.0), "hello")) == 0 == found(row(np.zeros(RATE, np.float32), "hello"))


def test_classes_are_told_by_the_mean_over_the_recording() -> None:
    states = torch.arange(24.0).reshape(2, 4, 3)
    means = mean_states(states, torch.tensor([320, 10_000]))
    assert means.tolist() == [states[0, 0].tolist(), states[1].mean(0).tolist()]
    assert mean_states(states, torch.tensor([321, 0]))[0].tolist() == states[0, :2].mean(0).tolist()


def test_a_fresh_head_has_no_opinion(english: AudioBase) -> None:
    base = english.with_window(1.0)
    model = Classifier(base.model.encoder, 5)
    logits = model(features([speech(0.9)], base), torch.tensor([14_400]))
    assert logits.shape == (1, 5) and not logits.any()
