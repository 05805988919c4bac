"""Make example media: `python -m examples.make pictures|speech|pairs OUT`, where OUT is a folder or ends in .zip.

    python -m examples.make pictures shapes.zip      # 800 drawings of ten shapes, with labels and captions
    python -m examples.make speech words.zip         # 480 recordings of their names by 16 voices
    python -m examples.make pairs pairs              # 200 of both together: is what is said what is shown?

The same seed makes the same bytes again, on the same versions of Pillow, NumPy and espeak-ng.
"""

import argparse
import sys
import time
from pathlib import Path

from examples.making import sets
from examples.making.writing import write
from moatelier.errors import MoatelierError

MAKERS = {"pictures": (sets.pictures, 800), "speech": (sets.speech, 480), "pairs": (sets.pairs, 200)}
"""What can be made: how, and how many of it."""


def main(arguments: list[str] | None = None) -> int:
    """Make one set; 0 when it is there."""
    parser = argparse.ArgumentParser(prog="python -m examples.make", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("kind", choices=MAKERS)
    parser.add_argument("out", type=Path, help="a folder, or a name that ends in .zip")
    parser.add_argument("--count", type=int, help="how many; default: 800 pictures, 480 recordings, 200 pairs")
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args(arguments)
    make, usual = MAKERS[chosen.kind]
    began = time.monotonic()
    try:
        files, size = write(chosen.out, make(usual if chosen.count is None else chosen.count, chosen.seed))
    except (MoatelierError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{chosen.out}: {files} files, {size / 1e6:.1f} MB, {time.monotonic() - began:.1f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
