"""Pictures and recordings: what tuning wins on real data, and how fast they are served beside what people use today.

    MOATELIER_BENCH_DATA=../shared/data python -m benchmarks.multimodal [--quick] [--only images|words|speed]

Reads `cifar10-small/{train,test}/<class>/*.jpg` and `spoken-digits/` from that folder, and needs the pulled packs
efficientnet-lite0 and whisper-tiny.en. faster-whisper is installed into an environment of its own.

images   a linear probe, LoRA and tuned top blocks on the same rows
words    spoken digits: three speakers to train on, the fourth to be understood, all four ways round
speed    against openai-whisper as shipped, faster-whisper on the same weights, and open_clip's own loop

`--quick` takes one speaker, few rows and no faster-whisper.
"""

import argparse
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from benchmarks import media, whispers
from evals.statistics import clopper_pearson, paired_difference
from moatelier.settings import settings
from modalities.bundle import bundle_folder
from modalities.vision.data import open_image
from modalities.vision.data import read_rows as read_pictures
from modalities.vision.model import load_base
from modalities.vision.pixels import to_pixels
from serving.hearing import AudioEngine
from serving.seeing import VisionEngine
from store import db

console = Console()
METHODS = ("linear_probe", "image_lora", "top_blocks")
Figures = dict[str, float]


def images(folder: Path, quick: bool) -> Figures:
    """Points that LoRA and top blocks win over a linear probe, on the same rows."""
    found = media.images(folder / "cifar10-small", METHODS, 100 if quick else None)
    probe = found["linear_probe"]
    table = Table("", "right", "less the probe", "training s", title="cifar10-small, pictures not seen before")
    gains: Figures = {}
    for method, trained in found.items():
        gain = paired_difference("linear_probe", trained.right, probe.right).difference
        gains[method] = 100 * gain.point
        table.add_row(
            method,
            f"{trained.accuracy:.1%}",
            f"{100 * gain.point:+.1f} ({100 * gain.low:+.1f} to {100 * gain.high:+.1f})",
            f"{trained.seconds:.0f}",
        )
    console.print(table)
    return {"vision_gain_points": gains["top_blocks"], "vision_lora_gain_points": gains["image_lora"]}


def words(folder: Path, quick: bool) -> Figures:
    """Exact words and word error rate on speakers that were not trained on."""
    rows = media.digits(folder / "spoken-digits")
    unheard = media.speakers(rows)[:1] if quick else media.speakers(rows)
    table = Table("unheard", "exact words", "95 % interval", "training s", title="spoken digits")
    right, seconds, wer = [], [], []
    for speaker in unheard:
        trained = media.words(rows, speaker, 120 if quick else None)
        right.append(trained.right)
        seconds.append(trained.seconds)
        wer.append(trained.wer)
        known = clopper_pearson(int(trained.right.sum()), len(trained.right))
        table.add_row(
            speaker, f"{trained.accuracy:.1%}", f"{known.low:.1%} to {known.high:.1%}", f"{trained.seconds:.0f}"
        )
        console.print(f"{speaker}: {trained.accuracy:.1%} after {trained.seconds:.0f} s")
    whole = np.concatenate(right)
    known = clopper_pearson(int(whole.sum()), len(whole))
    table.add_row("all", f"{whole.mean():.1%}", f"{known.low:.1%} to {known.high:.1%}", f"{np.mean(seconds):.0f}")
    console.print(table)
    return {"audio_exact_words": float(whole.mean()), "audio_wer": float(np.mean(wer))}


def speed(folder: Path, quick: bool) -> Figures:
    """Ratios of time within this run."""
    rows = media.digits(folder / "spoken-digits")
    unheard = media.speakers(rows)[0]
    bundles = [media.words(rows, unheard, 48).bundle for _ in range(1)]
    bundles += [_seeded(rows, seed) for seed in (1, 2, 3)]
    short = [media.sound_of(row) for row in rows if row.speaker == unheard][:8]
    long = media.long_speech(rows, 60.0)
    repeats = 2 if quick else 5
    engine = AudioEngine(media.AUDIO)
    names = [f"a{number}" for number in range(4)]
    for name, bundle in zip(names, bundles, strict=True):
        engine.load_adapter(name, bundle_folder(bundle))

    def fresh(work: Callable[[], Any]) -> Callable[[], Any]:
        def once() -> Any:
            engine.said.clear()  # the same clip again must be heard again
            engine.states.clear()
            return work()

        return once

    ours_short = media.timed(fresh(lambda: [engine.transcribe([clip], [names[0]]) for clip in short]), repeats)
    ours_long = media.timed(fresh(lambda: engine.transcribe([long], [None])), repeats)
    eight = [names[n % 4] for n in range(8)]

    def gain(clips: list[Any]) -> tuple[float, float]:
        """Seconds of eight clips over four adapters at once, and one after the other."""
        together = media.timed(fresh(lambda: engine.transcribe(clips, eight)), repeats)
        pairs = list(zip(clips, eight, strict=True))
        return together, media.timed(fresh(lambda: [engine.transcribe([clip], [own]) for clip, own in pairs]), repeats)

    batch, single = gain(short)
    phrases = [media.long_speech(rows[place:], media.WINDOW_S) for place in range(8)]
    phrase_batch, phrase_single = gain(phrases)
    shipped = whispers.openai(media.AUDIO)
    theirs_short = media.timed(lambda: [shipped(clip) for clip in short], repeats)
    theirs_long = media.timed(lambda: shipped(long), repeats)
    found = {
        "short_vs_openai": theirs_short / ours_short,
        "whisper_vs_openai": theirs_long / ours_long,
        "transcribe_batch_vs_sequential": single / batch,
        "transcribe_batch_vs_sequential_phrases": phrase_single / phrase_batch,
    }
    told = [("ours", ours_short, ours_long), ("openai-whisper", theirs_short, theirs_long)]
    if not quick:
        fast_short, fast_long = whispers.faster(media.AUDIO, short, long, repeats)
        found |= {"short_vs_faster": fast_short / ours_short, "whisper_vs_faster": fast_long / ours_long}
        told.append(("faster-whisper", fast_short, fast_long))
    table = Table("", "8 clips, s", "60 s of speech, s", title="whisper-tiny.en")
    for name, one, other in told:
        table.add_row(name, f"{one:.2f}", f"{other:.2f}")
    table.add_row("8 over 4 adapters at once", f"{batch:.2f}", "")
    console.print(table)
    return found | embedding(folder, repeats)


def _seeded(rows: Any, seed: int) -> str:
    bundle, _ = media.train(
        media.card("audio", "transcription", rows[:48], []),
        media.AUDIO,
        "audio_lora",
        "audio",
        f"seed{seed}",
        window_s=media.WINDOW_S,
        layers="all",
        epochs=1.0,
        seed=seed,
    )
    return bundle


def embedding(folder: Path, repeats: int) -> Figures:
    """Vectors of pictures: the engine against the loop that open_clip's users write, and what four adapters cost."""
    rows = read_pictures(folder / "cifar10-small", "cifar10-small", part="test")[:128]
    pictures = [open_image(row) for row in rows]
    base, engine = load_base(media.VISION), VisionEngine(media.VISION)
    transform = base.transform_at(base.config.transform.size)

    def loop() -> None:
        with torch.inference_mode():
            for start in range(0, len(pictures), 32):
                batch = torch.stack([to_pixels(one, transform) for one in pictures[start : start + 32]])
                base.tower(batch.to(base.device, dtype=next(base.tower.parameters()).dtype))

    def ours(names: list[str | None]) -> Callable[[], None]:
        def once() -> None:
            engine.states.clear()
            engine.embed(pictures, names)

        return once

    dataset = media.card("vision", "classification", rows, [], sorted({str(row.label) for row in rows}))
    for seed in range(4):
        bundle, _ = media.train(dataset, media.VISION, "image_lora", "vision", f"l{seed}", epochs=1.0, seed=seed)
        engine.load_adapter(f"l{seed}", bundle_folder(bundle))
    theirs, alone = media.timed(loop, repeats), media.timed(ours([None] * len(pictures)), repeats)
    mixed = media.timed(ours([f"l{n % 4}" for n in range(len(pictures))]), repeats)
    table = Table("", "pictures a second", title=f"{len(pictures)} pictures")
    for name, seconds in (("open_clip's loop", theirs), ("ours", alone), ("ours, over 4 adapters", mixed)):
        table.add_row(name, f"{len(pictures) / seconds:.0f}")
    console.print(table)
    return {"embed_vs_openclip": theirs / alone, "embed_adapter_overhead": mixed / alone - 1}


PARTS: dict[str, Callable[[Path, bool], Figures]] = {"images": images, "words": words, "speed": speed}


def main() -> None:
    """Run the parts that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", choices=sorted(PARTS))
    asked = parser.parse_args()
    folder = settings().bench_data
    if folder is None:
        raise SystemExit("set MOATELIER_BENCH_DATA to the folder with cifar10-small and spoken-digits")
    figures: Figures = {}
    with tempfile.TemporaryDirectory() as home:
        os.environ["MOATELIER_HOME"] = home
        settings.cache_clear()
        db.migrate()
        for name, part in PARTS.items():
            if asked.only in (None, name):
                figures |= part(folder, asked.quick)
    print(json.dumps({name: round(value, 4) for name, value in figures.items()}))


if __name__ == "__main__":
    main()
