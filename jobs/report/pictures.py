"""Pictures of a report, from figures, arrays of images, and PNG files in MLflow.

In all functions, `name` is the picture's file name without suffix, unique in the report; `alt` is the text for readers
who cannot see the picture, and `caption` is the text below the picture.
"""

from __future__ import annotations

import io

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from PIL import Image

from glow.figures import image_grid
from jobs.report.blocks import Picture

__all__ = ["drawn", "grid", "photographed", "recorded"]

DPI = 200
"""Resolution of figures that are mostly images."""

SHRUNK = 0.82
"""Factor by which figures are made smaller, so that their words are larger next to the words of the report."""


def drawn(figure: Figure, name: str, alt: str, caption: str) -> Picture:
    """Return a figure of lines or bars as a picture in SVG, which is sharp at every size.

    Equal figures with equal names give identical files.
    """
    width, height = figure.get_size_inches()
    figure.set_size_inches(SHRUNK * width, SHRUNK * height)
    file = io.BytesIO()
    with rc_context({"svg.hashsalt": name}):
        figure.savefig(file, format="svg", metadata={"Date": None})
    return Picture(f"{name}.svg", file.getvalue(), "image/svg+xml", alt, caption)


def photographed(figure: Figure, name: str, alt: str, caption: str) -> Picture:
    """Return a figure that consists mostly of images as a picture in PNG."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=DPI)
    return Picture(f"{name}.png", file.getvalue(), "image/png", alt, caption)


def grid(images_NCHW: np.ndarray, columns: int | None, name: str, alt: str, caption: str) -> Picture:
    """Return uint8 images (N, C, H, W) as one PNG, in a grid of `columns` columns; None gives a square grid."""
    file = io.BytesIO()
    Image.fromarray(image_grid(images_NCHW, columns)).save(file, "png")
    return Picture(f"{name}.png", file.getvalue(), "image/png", alt, caption, pixels=True)


def recorded(content: bytes, name: str, alt: str, caption: str, pixels: bool = False) -> Picture:
    """Return a picture from the content of a PNG file that is an artifact of a run.

    If `pixels` is true, enlarged pixels are shown as squares and not smoothed.
    """
    return Picture(f"{name}.png", content, "image/png", alt, caption, pixels)
