"""Decode an image file with Pillow, or only its header, and convert images to the shape that a model reads.

docs/data.md lists the rules: which files count as grey, how transparency and EXIF orientation are treated, and which
files are refused.

Shapes: N images, C channels, H rows, W columns.
"""

from __future__ import annotations

import errno
import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from glow.datasets.base import WHITE, Colour, DatasetCorrupt, ImageRefused, ImageUnreadable, Shape
from glow.errors import UserError

if TYPE_CHECKING:
    from PIL.Image import Image

SINGLE = ("MPO", "PSD")
"""Formats whose first frame is the whole picture: the others are previews of a photograph, or layers of a drawing."""

TURNED = range(2, 9)
"""EXIF orientations other than upright; 5 to 8 exchange width and height."""


@dataclass(frozen=True)
class Header:
    """The facts about an image that its header contains.

    Attributes:
        size: (width, height) in pixels, after the image is turned upright as its EXIF data say.
        channels: 1 for grey, else 3.
        transparent: whether there is an alpha channel or a transparent colour, even if no pixel uses it.

    Examples:
        >>> Header(size=(640, 480), channels=3, transparent=False).channels
        3
    """

    size: tuple[int, int]
    channels: int
    transparent: bool


class ImageFile(Protocol):
    """An image file, wherever it is: a `pathlib.Path`, an `EncodedImage`, or a file in a bucket.

    `str(file)` is the name of the file in error messages.

    Examples:
        >>> from pathlib import Path
        >>> file: ImageFile = Path("a.png")
        >>> str(file)
        'a.png'
    """

    def open(self, mode: Literal["rb"]) -> BinaryIO:
        """Return the contents as a binary file."""


@dataclass(frozen=True)
class EncodedImage:
    """An encoded image in memory, which is decoded like a file.

    Attributes:
        name: the name of the image in error messages.
        content: the bytes of an image file.

    Examples:
        >>> from PIL import Image
        >>> stream = io.BytesIO()
        >>> Image.new("L", (6, 4)).save(stream, "PNG")
        >>> decode(EncodedImage("row 0 of a.parquet", stream.getvalue())).shape
        torch.Size([1, 1, 4, 6])
    """

    name: str
    content: bytes

    def __str__(self) -> str:
        """Return the name."""
        return self.name

    def open(self, mode: Literal["rb"]) -> BinaryIO:
        """Return the bytes as a file in memory."""
        return io.BytesIO(self.content)


def read_header(path: ImageFile) -> Header:
    """Read the header of an image file.

    Args:
        path: the file.

    Raises:
        DatasetCorrupt: if the header cannot be read; ImageUnreadable if that is because its content is damaged.
        ImageRefused: if the file is not one image with 8 bits per channel, as far as the header shows.

    Examples:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from PIL import Image
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Image.new("RGBA", (6, 4)).save(f"{folder}/a.png")
        ...     read_header(Path(folder, "a.png"))
        Header(size=(6, 4), channels=3, transparent=True)
    """
    with _open(path) as image:
        width, height = image.size
        size = (height, width) if _orientation(image) >= 5 else (width, height)
        return Header(size, _channels(image), image.has_transparency_data)


def header_or_error(path: ImageFile) -> Header | ImageUnreadable | ImageRefused:
    """Return the header of an image file, or the error that says why its image is not read.

    Args:
        path: the file.

    Raises:
        DatasetCorrupt: if the system cannot read the file, so that the next files would likely fail as well.

    Examples:
        >>> type(header_or_error(EncodedImage("a.png", b"no image"))).__name__
        'ImageUnreadable'
    """
    try:
        return read_header(path)
    except (ImageUnreadable, ImageRefused) as error:
        return error


def decode(path: ImageFile, background: Colour = WHITE) -> Tensor:
    """Decode an image file.

    Args:
        path: the file.
        background: the colour (R, G, B) that is shown where the image is transparent. In a grey image, the luminance of
            this colour is shown.

    Returns:
        uint8 (1, C, H, W), turned upright as the EXIF data say; C is 1 if the header shows that the image is grey,
        else 3 (RGB).

    Raises:
        DatasetCorrupt: if the file cannot be decoded; ImageUnreadable if that is because its content is damaged.
        ImageRefused: if the file is not one image with 8 bits per channel, or is a PNG file that stores its EXIF
            orientation after its pixels, where `read_header` does not see it.

    Examples:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from PIL import Image
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Image.new("RGBA", (6, 4), (0, 0, 0, 0)).save(f"{folder}/a.png")
        ...     image = decode(Path(folder, "a.png"), background=(10, 20, 30))
        >>> image.shape, image[0, :, 0, 0].tolist()
        (torch.Size([1, 3, 4, 6]), [10, 20, 30])
    """
    with _open(path) as image:
        grey, transparent = _channels(image) == 1, image.has_transparency_data
        upright = _upright(image, path)
        if transparent:
            upright = _over(upright, background)
        pixels = np.array(upright.convert("L" if grey else "RGB"))
    tensor = torch.from_numpy(pixels)
    return tensor[None, None] if grey else tensor.permute(2, 0, 1)[None]


@contextmanager
def _open(path: ImageFile) -> Iterator[Image]:
    """Yield the Pillow image of a file; turn errors inside the block into DatasetCorrupt.

    The error is ImageUnreadable if the content is damaged, and another DatasetCorrupt if the system cannot read the
    file.
    """
    import PIL.Image

    try:
        with path.open("rb") as file, PIL.Image.open(file) as image:
            _check_depth(image, path)
            _check_single(image, path)
            yield image
    except (ImageRefused, UserError, MemoryError):  # a UserError is of a bucket
        raise
    except Exception as error:  # Pillow's plugins raise anything: OSError, SyntaxError, struct.error, ...
        # Pillow's own OSErrors have no errno. EINVAL is of a seek to an impossible position in a damaged file.
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise DatasetCorrupt(
                f"{path} cannot be read ({error.strerror or error})",
                remedy="check the file, its permissions and its disk",
                code="file-unreadable",
            ) from error
        raise ImageUnreadable(
            f"{path} cannot be decoded as an image ({error})",
            remedy="replace it with a good copy, or remove it",
            code="image-damaged",
        ) from error


def _check_depth(image: Image, path: ImageFile) -> None:
    if image.mode.startswith(("I", "F")):
        raise ImageRefused(f"{path} has more than 8 bits per channel (mode {image.mode}): convert it to 8 bits")
    bits = _bits(image, path)
    if bits > 8:
        raise ImageRefused(f"{path} has more than 8 bits per channel ({bits}): convert it to 8 bits")


def _bits(image: Any, path: ImageFile) -> int:
    """Return the bits per channel; only formats whose deeper colours Pillow silently cuts to 8 bits are examined."""
    match image.format:
        case "TIFF":
            return int(max(image.tag_v2.get(258, (1,))))
        case "PPM":
            arguments = image.tile[0][3]  # either (mode, largest value) or only the mode
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


def _start_of(path: ImageFile) -> bytes:
    with path.open("rb") as file:
        return file.read(4096)


def _check_single(image: Any, path: ImageFile) -> None:
    if image.format not in SINGLE and getattr(image, "is_animated", False):
        raise ImageRefused(
            f"{path} has {image.n_frames} frames or pages, of which only one would be read: extract each to a separate "
            "file"
        )


def _channels(image: Image) -> int:
    """Return 1 for a grey mode or a palette of greys, else 3, also for an RGB image with grey pixels only."""
    if image.mode in ("P", "PA") and image.palette is not None:
        return 1 if _is_grey(image.palette) else 3
    return 1 if image.mode in ("1", "L", "LA", "La") else 3


def _is_grey(palette: Any) -> bool:
    """Return whether all colours of a Pillow palette are grey.

    Pillow converts the colours here because files differ in the order of a palette's bytes.
    """
    import PIL.Image

    ramp = PIL.Image.new("P", (256, 1))
    ramp.putdata(range(256))
    ramp.putpalette(palette)
    colours = np.array(ramp.convert("RGB"))
    return bool((colours == colours[:, :, :1]).all())


def _orientation(image: Image) -> int:
    """Return the EXIF orientation in the header, or 1 (upright) if it is missing, damaged, or Pillow applies it."""
    import PIL.Image

    if image.format == "TIFF":  # Pillow itself turns these
        return 1
    try:
        found: Any = PIL.Image.Image.getexif(image).get(0x0112)  # the method of a PNG image would decode the pixels
    except Exception:  # damaged EXIF data, which viewers ignore too
        return 1
    return found if found in TURNED else 1


def _upright(image: Image, path: ImageFile) -> Image:
    """Decode the pixels, and turn them as the EXIF data say."""
    from PIL import ImageOps
    from PIL.Image import Exif

    orientation, known = _orientation(image), image.info.get("exif")
    image.load()
    late = image.info.get("exif")
    if late is not None and late != known:  # a PNG can have it after the pixels, where `read_header` does not see it
        exif = Exif()
        exif.load(late)
        if exif.get(0x0112) in TURNED:
            raise ImageRefused(f"{path} has its EXIF orientation after its pixels: turn it upright and save it again")
    return ImageOps.exif_transpose(image) if orientation in TURNED else image


def _over(image: Image, background: Colour) -> Image:
    """Composite the image over a background; opaque pixels keep their colour."""
    import PIL.Image

    foreground = image.convert("RGBA")
    return PIL.Image.alpha_composite(PIL.Image.new("RGBA", foreground.size, (*background, 255)), foreground)


def convert(images_NCHW: Tensor, image_shape: Shape) -> Tensor:
    """Convert the channels of images, shrink the images if they are too large, and pad them with zeros.

    Grey becomes RGB by repetition. RGB becomes grey by the luminance of ITU-R BT.601 with torchvision's coefficients,
    0.2989 R + 0.587 G + 0.114 B, rounded down. Shrinking is antialiased and keeps the aspect ratio. The padding is on
    all sides; an odd row or column is added at the bottom or on the right. Images are never enlarged.

    Args:
        images_NCHW: uint8 (N, C, H, W).
        image_shape: (C, H, W) of the result.

    Returns:
        uint8 (N, *image_shape), contiguous.

    Raises:
        ValueError: if the number of channels would change, but not from 1 to 3 or from 3 to 1.

    Examples:
        >>> white = torch.full((5, 1, 28, 28), 255, dtype=torch.uint8)
        >>> convert(white, (3, 32, 32)).shape
        torch.Size([5, 3, 32, 32])
        >>> convert(white, (1, 32, 32))[0, 0, 0].unique().tolist()  # the first row is padding
        [0]
    """
    channels, height, width = image_shape
    images_NCHW = _match_channels(images_NCHW, channels)
    old_height, old_width = images_NCHW.shape[-2:]
    scale = min(height / old_height, width / old_width)
    if scale < 1:
        from torchvision.transforms.v2 import functional as tv

        size = [max(1, round(old_height * scale)), max(1, round(old_width * scale))]
        images_NCHW = tv.resize(images_NCHW, size, antialias=True)
    rows, columns = height - images_NCHW.shape[-2], width - images_NCHW.shape[-1]
    if rows or columns:
        border = (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2)
        images_NCHW = F.pad(images_NCHW, border)
    return images_NCHW.contiguous()


def check_channels(own: int, asked: int) -> None:
    """Check that `convert` can change the number of channels.

    Args:
        own: channels of the images.
        asked: channels of the result.

    Raises:
        ValueError: unless the two are equal, or 1 and 3.

    Examples:
        >>> check_channels(1, 3)
        >>> check_channels(3, 2)
        Traceback (most recent call last):
        ValueError: images with 3 channels cannot be converted to 2: an image_shape has 1 or 3 channels
    """
    if own != asked and {own, asked} != {1, 3}:
        raise ValueError(
            f"images with {own} channels cannot be converted to {asked}: an image_shape has 1 or 3 channels"
        )


def _match_channels(images_NCHW: Tensor, channels: int) -> Tensor:
    own = images_NCHW.shape[1]
    check_channels(own, channels)
    if own == channels:
        return images_NCHW
    if channels == 3:
        return images_NCHW.expand(-1, 3, -1, -1)
    from torchvision.transforms.v2 import functional as tv

    grey: Tensor = tv.rgb_to_grayscale(images_NCHW)
    return grey
