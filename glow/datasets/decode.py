"""An image file -> uint8 tensor, and what its header says without a look at its pixels.

docs/data.md lists the rules: what counts as grey, what becomes of transparency and orientation, what is refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from glow.datasets.base import DatasetCorrupt

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["WHITE", "Colour", "Header", "decode", "read_header"]

Colour = tuple[int, int, int]  # RGB
WHITE: Colour = (255, 255, 255)

SINGLE = ("MPO", "PSD")
"""Formats whose first picture is the whole: what follows are previews of a photograph, or the layers of a drawing."""

TURNED = range(2, 9)
"""EXIF orientations other than upright; from 5 on, width and height change places."""


@dataclass(frozen=True)
class Header:
    """What is known of an image before its pixels are decoded."""

    size: tuple[int, int]  # (width, height) as it is read: upright
    channels: int  # 1 for grey, else 3
    transparent: bool  # it has an alpha channel or a transparent colour, used or not


def read_header(path: Path) -> Header:
    """Raises what `decode` raises, except for what only the pixels show."""
    with _open(path) as image:
        width, height = image.size
        size = (height, width) if _orientation(image) >= 5 else (width, height)
        return Header(size, _channels(image), image.has_transparency_data)


def decode(path: Path, background: Colour = WHITE) -> Tensor:
    """uint8 (1, C, H, W), upright, grey if the header says so, else RGB; what is transparent shows the `background`.

    DatasetCorrupt if the file cannot be decoded, ValueError for what cannot be read as one image of 8 bits a channel.
    """
    with _open(path) as image:
        grey, transparent = _channels(image) == 1, image.has_transparency_data
        upright = _upright(image, path)
        if transparent:
            upright = _over(upright, background)
        pixels = np.array(upright.convert("L" if grey else "RGB"))
    tensor = torch.from_numpy(pixels)
    return tensor[None, None] if grey else tensor.permute(2, 0, 1)[None]


class _RefusedError(ValueError):
    """Pillow reads the file, but it is not one image of 8 bits a channel."""


@contextmanager
def _open(path: Path) -> Iterator[Image]:
    """A Pillow image; whatever fails while it is in use becomes DatasetCorrupt."""
    import PIL.Image

    try:
        with PIL.Image.open(path) as image:
            _check_depth(image, path)
            _check_single(image, path)
            yield image
    except _RefusedError:
        raise
    except Exception as error:  # Pillow's plugins raise anything: OSError, SyntaxError, struct.error, ...
        raise DatasetCorrupt(f"{path} cannot be decoded as an image ({error}); replace or remove it") from error


def _check_depth(image: Image, path: Path) -> None:
    if image.mode.startswith(("I", "F")):
        raise _RefusedError(f"{path} has more than 8 bits a channel (mode {image.mode}); convert it to 8 bits")
    bits = _bits(image, path)
    if bits > 8:
        raise _RefusedError(f"{path} has more than 8 bits a channel ({bits}); convert it to 8 bits")


def _bits(image: Any, path: Path) -> int:
    """Bits a channel by the header of formats whose deeper colours Pillow cuts to 8 bits without a word."""
    match image.format:
        case "TIFF":
            return int(max(image.tag_v2.get(258, (1,))))
        case "PPM":
            arguments = image.tile[0][3]  # (mode, largest value), or the mode alone
            return int(arguments[-1]).bit_length() if isinstance(arguments, tuple) else 8
        case "PNG":
            return _start_of(path)[24]
        case "SGI":
            return 8 * _start_of(path)[3]
        case "JPEG2000":  # Ssiz of the first component, in the marker segment SIZ after SOC
            codestream = _start_of(path).partition(b"\xff\x4f\xff\x51")[2]
            return (codestream[38] & 127) + 1 if len(codestream) > 38 else 8
        case "AVIF":  # high_bitdepth and twelve_bit, in the box av1C
            configuration = _start_of(path).partition(b"av1C")[2]
            flags = configuration[2] if len(configuration) > 2 else 0
            return 8 if not flags & 64 else 12 if flags & 32 else 10
    return 8


def _start_of(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(4096)


def _check_single(image: Any, path: Path) -> None:
    if image.format not in SINGLE and getattr(image, "is_animated", False):
        raise _RefusedError(
            f"{path} has {image.n_frames} frames or pages, of which only one could be read; extract them to files of "
            "their own"
        )


def _channels(image: Image) -> int:
    """1 for a grey mode, or a palette of greys; that an RGB image is grey in content only its pixels would show."""
    if image.mode in ("P", "PA") and image.palette is not None:
        return 1 if _is_grey(image.palette) else 3
    return 1 if image.mode in ("1", "L", "LA", "La") else 3


def _is_grey(palette: Any) -> bool:
    """Whether all colours of a Pillow palette are grey, in whatever order its file has the bytes."""
    import PIL.Image

    ramp = PIL.Image.new("P", (256, 1))
    ramp.putdata(range(256))
    ramp.putpalette(palette)
    colours = np.array(ramp.convert("RGB"))
    return bool((colours == colours[:, :, :1]).all())


def _orientation(image: Image) -> int:
    """The EXIF orientation that a header has, 1 if none, or none that can be read. TIFF files Pillow turns itself."""
    import PIL.Image

    if image.format == "TIFF":
        return 1
    try:
        found: Any = PIL.Image.Image.getexif(image).get(0x0112)  # a PNG image's own method decodes the pixels
    except Exception:  # EXIF data that are damaged: viewers show such images as they are
        return 1
    return found if found in TURNED else 1


def _upright(image: Image, path: Path) -> Image:
    """The image decoded, and turned as its EXIF data say."""
    from PIL import ImageOps
    from PIL.Image import Exif

    orientation, known = _orientation(image), image.info.get("exif")
    image.load()
    late = image.info.get("exif")
    if late is not None and late != known:  # of a PNG, after the pixels, where one who reads headers does not see it
        exif = Exif()
        exif.load(late)
        if exif.get(0x0112) in TURNED:
            raise _RefusedError(f"{path} has its EXIF orientation after its pixels; turn it upright and save it again")
    return ImageOps.exif_transpose(image) if orientation in TURNED else image


def _over(image: Image, background: Colour) -> Image:
    """Composited over the background; where a pixel is opaque, its colour is what it was."""
    import PIL.Image

    foreground = image.convert("RGBA")
    return PIL.Image.alpha_composite(PIL.Image.new("RGBA", foreground.size, (*background, 255)), foreground)
