"""Make the animation of the page from its pictures: the way from the list of jobs into one and back.

    python docs/_build/film.py docs/images

`make pictures` makes the pictures, and then this.
"""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image

SCENES = ("jobs", "job", "timeline", "failures", "sample", "runs")
SECONDS = 3
COLOURS = 128


def film(folder: Path, scheme: str = "light") -> Path:
    """Write ``ui-tour.gif`` and return its path.

    Args:
        folder: Where the pictures are, and the animation goes.
        scheme: Their colours: `light` or `dark`.
    """
    frames = [Image.open(folder / f"ui-{name}-{scheme}.png").convert("RGB") for name in SCENES]
    # One palette for all: colours must not flicker from scene to scene.
    every = Image.new("RGB", (frames[0].width, sum(frame.height for frame in frames)))
    at = 0
    for frame in frames:
        every.paste(frame, (0, at))
        at += frame.height
    palette = every.quantize(COLOURS)
    first, *rest = (frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames)
    path = folder / "ui-tour.gif"
    first.save(path, save_all=True, append_images=rest, duration=SECONDS * 1000, loop=0, optimize=False)
    return path


if __name__ == "__main__":
    print(film(Path(sys.argv[1])))
