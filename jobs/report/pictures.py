"""Figures, arrays of images and recorded files as pictures of a report."""

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
SHRUNK = 0.82


def drawn(figure: Figure, name: str, alt: str, caption: str) -> Picture:
    """A figure of lines as SVG: sharp at every size. Equal figures are equal files."""
    width, height = figure.get_size_inches()
    figure.set_size_inches(SHRUNK * width, SHRUNK * height)  # so that its words are larger beside the report's
    file = io.BytesIO()
    with rc_context({"svg.hashsalt": name}):
        figure.savefig(file, format="svg", metadata={"Date": None})
    return Picture(f"{name}.svg", file.getvalue(), "image/svg+xml", alt, caption)


def photographed(figure: Figure, name: str, alt: str, caption: str) -> Picture:
    """A figure that is mostly images, as PNG."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=DPI)
    return Picture(f"{name}.png", file.getvalue(), "image/png", alt, caption)


def grid(images_NCHW: np.ndarray, columns: int | None, name: str, alt: str, caption: str) -> Picture:
    """uint8 images side by side."""
    file = io.BytesIO()
    Image.fromarray(image_grid(images_NCHW, columns)).save(file, "png")
    return Picture(f"{name}.png", file.getvalue(), "image/png", alt, caption, pixels=True)


def recorded(content: bytes, name: str, alt: str, caption: str, pixels: bool = False) -> Picture:
    """A PNG as a run has it."""
    return Picture(f"{name}.png", content, "image/png", alt, caption, pixels)
