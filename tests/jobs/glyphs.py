"""Image files whose content is in their transparency."""

from pathlib import Path

import numpy as np
from PIL import Image

__all__ = ["write_glyphs"]


def write_glyphs(folder: Path, count: int, grey: int) -> None:
    """Makes the folder, with so many images of 8x8: pixels that are opaque or transparent at random, of one grey."""
    folder.mkdir(parents=True)
    for index in range(count):
        alpha = np.random.default_rng(index).integers(0, 2, (8, 8), np.uint8) * 255
        glyph = Image.merge("LA", [Image.new("L", (8, 8), grey), Image.fromarray(alpha)])
        glyph.save(folder / f"{index:02}.png")
