import json
import struct
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from transformers import WhisperConfig, WhisperForConditionalGeneration
from whisper.model import ModelDimensions, Whisper

from moatelier.errors import IntegrityError, ModelUnavailable
from modalities.audio import ctranslate2
from modalities.audio.config import AudioConfig, read_config
from modalities.audio.convert import ctranslate2_whisper, hf_whisper
from tests.sounding import ctranslate2_bytes, tiny_whisper


@pytest.fixture(scope="module")
def written() -> bytes:
    return ctranslate2_bytes(tiny_whisper())


def converted(data: bytes, folder: Path) -> Whisper:
    source, to = folder / "source", folder / "to"
    source.mkdir()
    to.mkdir()
    (source / "model.bin").write_bytes(data)
    (source / "config.json").write_text(json.dumps({"alignment_heads": [[1, 0], [1, 1]]}))
    ctranslate2_whisper(source, to, None)
    return loaded(to)


def loaded(folder: Path) -> Whisper:
    model = Whisper(ModelDimensions(**read_config(folder).dims))
    model.load_state_dict(load_file(folder / "model.safetensors"), strict=True)
    return model.eval()


def test_ctranslate2_comes_back_bit_by_bit(written: bytes, tmp_path: Path) -> None:
    model, state = converted(written, tmp_path), tiny_whisper().state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    config = read_config(tmp_path / "to")
    assert config.dims == vars(tiny_whisper().dims) and config.alignment_heads == ((1, 0), (1, 1))
    assert not config.multilingual


@pytest.mark.parametrize(("kind", "near", "dtype"), [("f2", 2e-3, torch.float16), ("i1", 0.02, torch.float32)])
def test_ctranslate2_of_fewer_bits(kind: str, near: float, dtype: torch.dtype, tmp_path: Path) -> None:
    model, state = converted(ctranslate2_bytes(tiny_whisper(), kind), tmp_path), tiny_whisper().state_dict()
    assert all(torch.allclose(tensor, state[name], atol=near) for name, tensor in model.state_dict().items())
    kept = load_file(tmp_path / "to" / "model.safetensors")
    assert kept["encoder.blocks.0.attn.key.weight"].dtype == dtype


def test_a_file_cut_anywhere_is_refused(written: bytes, tmp_path: Path) -> None:
    file = tmp_path / "model.bin"
    for length in [*range(0, 400, 7), *range(400, len(written), len(written) // 50), len(written) - 1]:
        file.write_bytes(written[:length])
        with pytest.raises(IntegrityError, match="cannot be read"):
            ctranslate2.read(file, "WhisperSpec")


def test_a_hostile_file_is_refused(written: bytes, tmp_path: Path) -> None:
    file = tmp_path / "model.bin"
    name = struct.pack("<H", 2) + b"a\0"
    head = written[:22]
    assert head.endswith(struct.pack("<I", 3))
    tensors = {
        "claims": struct.pack("<I", 2**32 - 1),
        "dimensions": struct.pack("<I", 1) + name + struct.pack("<B", 200),
        "more are due": struct.pack("<I", 1) + name + struct.pack("<BI", 1, 2**30) + struct.pack("<BI", 1, 2**30),
        "has 4 bytes": struct.pack("<I", 1)
        + name
        + struct.pack("<B8I", 8, *[2**32 - 1] * 8)
        + struct.pack("<BI", 0, 4),
        "unknown type": struct.pack("<I", 1) + name + struct.pack("<B", 0) + struct.pack("<BI", 9, 1) + b"x",
        "UTF-8": struct.pack("<I", 1) + struct.pack("<H", 2) + b"\xff\0",
        "stands twice": struct.pack("<I", 2) + 2 * (name + struct.pack("<B", 0) + struct.pack("<BI", 1, 1) + b"x"),
        "leads nowhere": struct.pack("<I", 0) + struct.pack("<I", 1) + name + name,
        "behind its end": struct.pack("<I", 0) + struct.pack("<I", 0) + b"more",
    }
    for reason, tail in tensors.items():
        file.write_bytes(head + tail)
        with pytest.raises(IntegrityError, match=reason):
            ctranslate2.read(file, "WhisperSpec")
    file.write_bytes(b"\x50\x4b\x03\x04" + bytes(100))
    with pytest.raises(IntegrityError, match="version"):
        ctranslate2.read(file, "WhisperSpec")
    file.write_bytes(written)
    with pytest.raises(IntegrityError, match="not a TransformerSpec"):
        ctranslate2.read(file, "TransformerSpec")


def test_a_file_that_is_no_whisper_is_refused(tmp_path: Path) -> None:
    narrow = ctranslate2_bytes(tiny_whisper()).replace(b"encoder/conv1/weight", b"encoder/conv9/weight")
    with pytest.raises(IntegrityError, match="lacks the tensor 'encoder/conv1/weight'"):
        converted(narrow, tmp_path)


def test_a_bias_of_the_keys_is_refused(tmp_path: Path) -> None:
    model = tiny_whisper()
    state = model.state_dict()
    state["encoder.blocks.0.attn.key.bias"] = torch.ones(16)
    biased = SimpleNamespace(state_dict=lambda: state, dims=model.dims)
    with pytest.raises(IntegrityError, match="bias for its keys"):
        converted(ctranslate2_bytes(biased), tmp_path)  # type: ignore[arg-type]  # quacks like one


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailable, match=r"model\.bin"):
        ctranslate2_whisper(tmp_path, tmp_path, None)
    with pytest.raises(ModelUnavailable, match=r"config\.json"):
        hf_whisper(tmp_path, tmp_path, None)


# ---------------------------------------------------------------- Hugging Face


def hf_folder(folder: Path, shards: str = "1GB") -> WhisperForConditionalGeneration:
    config = WhisperConfig(
        vocab_size=51865,
        d_model=16,
        encoder_layers=2,
        decoder_layers=3,
        encoder_attention_heads=2,
        decoder_attention_heads=4,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        num_mel_bins=80,
        max_source_positions=1500,
        max_target_positions=64,
    )
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = WhisperForConditionalGeneration(config).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(folder, max_shard_size=shards)
    return model


@pytest.mark.parametrize("shards", ["1GB", "1MB"])
def test_hugging_face_gives_the_same_states_and_logits(shards: str, tmp_path: Path) -> None:
    theirs = hf_folder(tmp_path / "hf", shards)
    (tmp_path / "to").mkdir()
    hf_whisper(tmp_path / "hf", tmp_path / "to", None)
    ours, config = loaded(tmp_path / "to"), read_config(tmp_path / "to")
    assert (config.n_audio_layer, config.n_text_layer, config.n_text_head) == (2, 3, 4) and config.multilingual
    mel, tokens = torch.randn(2, 80, 3000), torch.randint(0, 51865, (2, 7))
    with torch.no_grad():
        states = theirs.model.encoder(mel).last_hidden_state
        logits = theirs(input_features=mel, decoder_input_ids=tokens).logits
        assert torch.allclose(ours.encoder(mel), states, atol=1e-4)
        assert torch.allclose(ours(mel, tokens), logits, atol=1e-4)


def test_another_model_and_damaged_weights_are_refused(tmp_path: Path) -> None:
    hf_folder(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"junk")
    with pytest.raises(IntegrityError, match="weights cannot be read"):
        hf_whisper(tmp_path, tmp_path, None)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ModelUnavailable, match="no weights in safetensors"):
        hf_whisper(tmp_path, tmp_path, None)
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(ModelUnavailable, match="'llama', not Whisper"):
        hf_whisper(tmp_path, tmp_path, None)


def test_weights_of_another_shape_than_the_configuration_are_refused(tmp_path: Path) -> None:
    hf_folder(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"encoder_layers": 3}))
    with pytest.raises(IntegrityError, match=r"such as 'encoder\.blocks\.2\."):
        hf_whisper(tmp_path, tmp_path, None)
    (tmp_path / "config.json").write_text(json.dumps(config | {"encoder_attention_heads": 3}))
    with pytest.raises(IntegrityError, match="heads do not divide"):
        hf_whisper(tmp_path, tmp_path, None)


def test_a_shape_is_read_and_a_strange_one_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailable, match="not a folder of a Whisper model"):
        read_config(tmp_path)
    assert AudioConfig.model_validate(vars(tiny_whisper().dims)).n_mels == 80
