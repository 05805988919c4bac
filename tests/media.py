"""Zips of drawings and of tones to learn from, and tiny random bases for them as entries of a catalogue.

Apart from the other fakes, since what makes the bases takes seconds to import.
"""

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests.modalities.vision.pictures import COLOURS, drawn, encoded
from tests.modalities.vision.towers import timm_folder
from tests.sounding import ctranslate2_bytes, saying, sound_bytes, tiny_whisper, tone

BASES = {"vision": "eyes", "audio": "ears"}
"""Modality -> the catalogue id of its tiny base."""
HERTZ = {"red": 200.0, "green": 500.0, "blue": 1100.0}


def tiny_base(modality: str, folder: Path) -> dict[str, Any]:
    """A random EfficientNet that sees 32 pixels, or a Whisper of 16 numbers a state: its catalogue entry.

    The Whisper says a word of HERTZ, the same whatever it hears; all else of it is random.
    """
    if modality == "vision":
        timm_folder(folder)
    else:
        folder.mkdir(parents=True)
        (folder / "model.bin").write_bytes(ctranslate2_bytes(saying(tiny_whisper(), *HERTZ)))
        (folder / "config.json").write_text("{}")
    convert = {"vision": "hf_vision", "audio": "ctranslate2_whisper"}[modality]
    sources = [{"type": "path", "path": str(folder)}]
    return {"id": BASES[modality], "kind": modality, "convert": convert, "sources": sources}


def packed(file: Path, members: dict[str, bytes]) -> Path:
    """Write a zip of these members, whose bytes are always the same."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name), content)
    file.write_bytes(stream.getvalue())
    return file


def scene(label: str, seed: int) -> bytes:
    """A drawing with a tinge of its colour, so that a tower that knows nothing can tell it apart."""
    tinge = Image.new("RGB", (40, 40), COLOURS[label])
    return encoded(Image.blend(drawn(label, seed, 40), tinge, 0.4))


def scenes(part: str, count: int, first: int) -> dict[str, bytes]:
    """As many scenes of each colour, as members of a zip in a folder for each colour."""
    return {
        f"{part}{label}/{seed}.png": scene(label, seed) for label in COLOURS for seed in range(first, first + count)
    }


PLACES = {"left": (0, 0), "right": (24, 0), "bottom": (12, 24)}
CAPTIONS = {(colour, place): f"a {colour} thing on the {place}" for colour in COLOURS for place in PLACES}
SPOKEN = " ".join(CAPTIONS.values()) + " photo of . picture close-up blurry small large"
"""All words that a tower for captions and classes must know."""


def shown(colour: str, place: str, seed: int) -> Image.Image:
    """A thing of the colour at the place, before noise."""
    noise = np.random.default_rng(seed).integers(90, 166, (48, 48, 3), dtype=np.uint8)
    image = Image.fromarray(noise)
    left, top = PLACES[place]
    image.paste(COLOURS[colour], (left, top, left + 24, top + 24))
    return image


def album(file: Path, count: int) -> Path:
    """Pictures with captions and labels, two of the first picture, and one without a caption, in a zip with a table."""
    members, lines = {}, ["image,caption,label"]
    for seed in range(count):
        (colour, place), caption = list(CAPTIONS.items())[seed % len(CAPTIONS)]
        members[f"{seed}.png"] = encoded(shown(colour, place, seed))
        lines.append(f"{seed}.png,{caption},{colour}")
    lines += ["0.png,the same thing in other words,red", "1.png,,red"]
    return packed(file, members | {"index.csv": "\n".join(lines).encode()})


def word(text: str, voice: int = 0, take: int = 0) -> bytes:
    """A tone that stands for a word of HERTZ, a little higher with each voice and each take."""
    return sound_bytes(tone(0.5 + take / 50, HERTZ[text] + 7 * voice + take))


def speech(file: Path) -> Path:
    """Four speakers say three words eight times each, and one recording is silent."""
    members, lines = {}, ["file,text,speaker"]
    for voice, speaker in enumerate(("ann", "bob", "cid", "dee")):
        for text in HERTZ:
            for take in range(8):
                name = f"{text}-{speaker}-{take}.wav"
                members[name] = word(text, voice, take)
                lines.append(f"{name},{text},{speaker}")
    members["silent.wav"] = sound_bytes(0 * tone(0.5))
    lines.append("silent.wav,red,ann")
    return packed(file, members | {"index.csv": "\n".join(lines).encode()})
