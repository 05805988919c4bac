"""How fast this machine tunes image models and models of speech; forecasts rest on it, see `training.probe`."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from moatelier.contracts import TrainSpec
from modalities import catalogue
from modalities.audio import model as audio
from modalities.audio.classifier import Classifier as Listener
from modalities.audio.config import LONGEST_WINDOW_S, samples
from modalities.audio.teaching import lesson, loss
from modalities.imagetext.projector import look
from modalities.machine import DTYPES
from modalities.vision import model as vision
from modalities.vision.classifier import Classifier
from modalities.vision.pairs import Pairs, pair_loss
from modalities.vision.word_tower import first_block_default
from training import methods
from training.contrastive import fit_projection
from training.methods import linear_probe

_ROWS, _LABELS = 16, 10
_WORDS_A_SECOND = 2
_CAPTION = "a small red thing with number {} on a striped green ground"


def rate(once: Callable[[], object], count: int, seconds: float) -> float:
    """Things a second at the best of a few repeats, each of which does `count`; the first one warms up."""
    times: list[float] = []
    began = time.perf_counter()
    while len(times) < 2 or (time.perf_counter() - began < seconds and len(times) < 6):
        start = time.perf_counter()
        once()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return round(count / min(times[1:]), 1)


def images(base_id: str, size: int | None, seconds: float) -> dict[str, Any]:
    """What top blocks take, which stand for all methods: others train less.

    Args:
        base_id: Catalogue id.
        size: Pixels of either side; None is the base's own.
        seconds: About how long each of the measurements may take.

    Returns:
        `frozen_rows_per_s` (the whole tower once, and the frozen stages for an image and its mirror image),
        `solve_seconds` (the probe that heads start from, of few rows), `train_rows_per_s` (the tuned stages forward and
        back) and `precision`.

    Raises:
        ModelUnavailable: The base is not pulled.
        InvalidRequest: It takes no such size.
    """
    base = vision.load_base(base_id)
    first, tower = base.first_stage_default, base.tower
    pixels = _pixels(base, size)
    with torch.inference_mode():
        whole = rate(lambda: tower(pixels), _ROWS, seconds)
        below = rate(lambda: tower.run_stages(pixels, 0, first), _ROWS, seconds)
    with torch.no_grad():
        states = tower.run_stages(pixels, 0, first)
    spec = TrainSpec(method="top_blocks", base=base_id, dataset="", suffix="probe")
    made = Classifier(tower, _LABELS).to(base.device)
    model = methods.load(spec, "vision").attach(made, spec, first).train()
    targets = torch.arange(_ROWS, device=base.device) % _LABELS
    train = rate(lambda: torch.autograd.backward(cross_entropy(model(states, first), targets)), _ROWS, seconds)
    return {
        "precision": base.precision,
        "frozen_rows_per_s": round(1 / (1 / whole + 2 / below), 1),
        "solve_seconds": _solve_seconds(tower.width),
        "train_rows_per_s": train,
    }


def sights(base_id: str, size: int | None, seconds: float) -> float:
    """Pictures a second that a vision base sees for a text model; raises as `images` does."""
    base = vision.load_base(base_id)
    pixels, stop = _pixels(base, size), base.tower.before_places
    with torch.inference_mode():
        return rate(lambda: look(base, base.tower.run_stages(pixels, 0, stop)), _ROWS, seconds)


def _pixels(base: vision.VisionBase, size: int | None) -> Tensor:
    side = base.transform_at(size or base.config.transform.size).size
    return torch.rand(_ROWS, 3, side, side).to(base.device, DTYPES[base.precision])


def _solve_seconds(width: int) -> float:
    rows = _ROWS * _LABELS
    features = torch.randn(rows, width, generator=torch.Generator().manual_seed(0))
    began = time.perf_counter()
    linear_probe.fit(features, torch.arange(rows) % _LABELS, _LABELS)
    return round(time.perf_counter() - began, 2)


def pairs(base_id: str, size: int | None, seconds: float) -> dict[str, Any]:
    """What pictures and captions take that are brought together above a locked image tower.

    Args:
        base_id: Catalogue id.
        size: Pixels of either side; None is the base's own.
        seconds: About how long each of the measurements may take.

    Returns:
        `frozen_rows_per_s` (the whole image tower once), `solve_seconds` (the projection that is started from, of few
        rows), `train_rows_per_s` (the tower of words forward and back) and `precision`.

    Raises:
        ModelUnavailable: The base, or the tower of words that it needs, is not pulled.
        InvalidRequest: It takes no such size.
    """
    base = vision.load_base(base_id, text=catalogue.embedding())
    pixels = _pixels(base, size)
    with torch.no_grad():
        frozen = rate(lambda: base.tower(pixels), _ROWS, seconds)
        features = base.tower(pixels)
    spec = TrainSpec(method="contrastive", base=base_id, dataset="", suffix="probe", rank=8, alpha=16.0)
    joined = Pairs(base)
    model = methods.load(spec, "vision").attach(joined, spec, first_block_default(joined.text)).train()
    tokens = base.tokenizer([_CAPTION.format(number) for number in range(_ROWS)]).to(base.device)
    partners = torch.eye(_ROWS, dtype=torch.bool, device=base.device)
    train = rate(lambda: torch.autograd.backward(pair_loss(model(features, tokens), partners)), _ROWS, seconds)
    began = time.perf_counter()
    if not base.config.zero_shot:
        rows = torch.randn(_ROWS * _LABELS, base.tower.width, generator=torch.Generator().manual_seed(0))
        fit_projection(rows, rows[:, : base.clip.text.output_dim])
    solved = round(time.perf_counter() - began, 2)
    told = {"precision": base.precision, "frozen_rows_per_s": frozen}
    return told | {"solve_seconds": solved, "train_rows_per_s": train}


def recordings(base_id: str, window_s: float | None, kind: str, seconds: float) -> dict[str, Any]:
    """What LoRA in all layers takes.

    Args:
        base_id: Catalogue id.
        window_s: How much is heard at once; None is the base's own.
        kind: `transcription` or `classification`.
        seconds: About how long each of the measurements may take.

    Returns:
        `frozen_rows_per_s` (spectrograms), `train_rows_per_s` (forward and back) and `precision`.

    Raises:
        ModelUnavailable: The base is not pulled.
        InvalidRequest: It hears no such window.
    """
    window = window_s or LONGEST_WINDOW_S
    base = audio.load_base(base_id).with_window(window)
    chance = np.random.default_rng(0)
    clips = [chance.normal(0, 0.1, samples(window)).astype(np.float32) for _ in range(_ROWS)]
    frozen = rate(lambda: audio.features(clips, base), _ROWS, seconds)
    mel = audio.features(clips, base).to(DTYPES[base.precision])
    spec = TrainSpec(method="audio_lora", base=base_id, dataset="", suffix="probe", rank=8, alpha=16.0)
    method = methods.load(spec, "audio")
    step = _words(base, mel, method, spec) if kind == "transcription" else _classes(base, mel, method, spec)
    train = rate(lambda: torch.autograd.backward(step()), _ROWS, seconds)
    return {"precision": base.precision, "frozen_rows_per_s": frozen, "train_rows_per_s": train}


def _words(base: audio.AudioBase, mel: Tensor, method: Any, spec: TrainSpec) -> Callable[[], Tensor]:
    method.attach(base.model, spec, 0, shape=base.config).train()
    lessons = [lesson(base, "seven " * max(1, round(_WORDS_A_SECOND * base.window_s)))] * _ROWS
    return lambda: loss(base.model, lessons, audio.encode(mel, base))


def _classes(base: audio.AudioBase, mel: Tensor, method: Any, spec: TrainSpec) -> Callable[[], Tensor]:
    made = Listener(base.model.encoder, _LABELS).to(base.device)
    tuned = method.attach(made, spec, 0, shape=base.config).train()
    targets = torch.arange(_ROWS, device=base.device) % _LABELS
    whole = torch.full((_ROWS,), samples(base.window_s), device=base.device)
    return lambda: cross_entropy(tuned(mel, whole), targets)
