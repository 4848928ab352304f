"""How image files are read and how a folder of them is listed, on files that Pillow writes here."""

import errno
import io
import os
import re
import struct
import zlib
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, features
from PIL.MpoImagePlugin import MpoImageFile

from glow.datasets import DatasetCorrupt, describe, fingerprint, load_dataset, own_channels, status
from glow.datasets.decode import Header, decode, read_header
from tests.refusals import refused


def pixels_of(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def save(path, pixels, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return path


def save_images(folder, count, first=0):
    for index in range(count):
        save(folder / f"{index:03}.png", pixels_of(8, 8, seed=first + index))


def png_with(chunk, before, png):
    """Return a PNG file's bytes with a chunk inserted before the first chunk of the kind `before`."""
    kind, data = chunk
    at = png.index(before) - 4
    whole = struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    return png[:at] + whole + png[at:]


def images_of(name):
    """Return the images of each split as bytes."""
    splits = {split: load_dataset(name, split)[0] for split in describe(name).splits}
    return {split: [image.numpy().tobytes() for image in images] for split, images in splits.items()}


# Images and fingerprints do not change between versions


@pytest.mark.parametrize("suffix", ["png", "bmp", "jpg", "tif"])
@pytest.mark.parametrize("shape", [(6, 9), (6, 9, 3)])
def test_an_ordinary_file_is_read_byte_for_byte(tmp_path, suffix, shape):
    path = save(tmp_path / f"a.{suffix}", pixels_of(*shape))
    expected = np.array(Image.open(path))
    found = decode(path)[0].permute(1, 2, 0).numpy()
    assert found.tobytes() == expected.tobytes()
    assert read_header(path) == Header((9, 6), 1 if len(shape) == 2 else 3, False)


def test_the_fingerprint_of_an_ordinary_folder_is_that_of_earlier_versions(tmp_path):
    for index in range(10):
        save(tmp_path / f"a/{index}.png", np.full((4, 6), index, np.uint8))
        save(tmp_path / f"b/{index}.png", np.full((4, 6, 3), (index, 100, 200), np.uint8))
    assert fingerprint(load_dataset(f"folder:{tmp_path}")[0]) == "e2453c960cc499ce"


def refuse_to_list(folder, monkeypatch):
    """Let the system refuse to list a folder, as without the permission; tests may run as root, who has it always."""
    scandir = os.scandir

    def refusing(path):
        if os.fspath(path) == str(folder):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)


# Links


def test_a_link_upwards_makes_no_circle(tmp_path):
    save_images(tmp_path / "a", 20)
    before = images_of(f"folder:{tmp_path}")
    (tmp_path / "a/up").symlink_to("..")
    (tmp_path / "a/self").symlink_to(".")
    name = f"folder:{tmp_path}"
    assert images_of(name) == before
    assert sum(map(len, before.values())) == 20
    assert describe(name).class_names == ("a",)
    (note,) = describe(name).notes
    assert note.startswith("2 paths ")
    assert f"(such as {tmp_path}/a/self)" in note


def test_no_image_is_in_two_splits_of_classes_that_link_to_one_another(tmp_path):
    save_images(tmp_path / "b", 10)
    save_images(tmp_path / "c", 10, first=10)
    (tmp_path / "a").symlink_to("b")  # it comes first by name, but the folder itself is kept
    (tmp_path / "c/b").symlink_to("../b")
    (tmp_path / "b/c").symlink_to("../c")
    name = f"folder:{tmp_path}"
    everything = [image for images in images_of(name).values() for image in images]
    assert len(everything) == len(set(everything)) == 20
    assert describe(name).class_names == ("b", "c")


def test_a_link_to_a_folder_elsewhere_is_followed(tmp_path):
    save_images(tmp_path / "elsewhere/deep", 10)
    save_images(tmp_path / "d/a", 10, first=10)
    (tmp_path / "d/b").symlink_to(tmp_path / "elsewhere")
    info = describe(f"folder:{tmp_path / 'd'}")
    assert info.class_names == ("a", "b")
    assert info.notes == ()
    assert {split: len(images) for split, images in images_of(info.name).items()} == {
        "train": 14,
        "validation": 2,
        "test": 4,
    }
    (tmp_path / "link").symlink_to("d")  # and the folder itself may be a link
    assert images_of(f"folder:{tmp_path / 'link'}") == images_of(info.name)


@pytest.mark.parametrize("unreadable", ["b", "b/deeper", "linked"])
def test_a_folder_that_the_system_cannot_list_is_named(tmp_path, monkeypatch, unreadable):
    save_images(tmp_path / "set/a", 10)
    save_images(tmp_path / "set/b/deeper", 10)
    save_images(tmp_path / "elsewhere", 10)
    (tmp_path / "set/linked").symlink_to(tmp_path / "elsewhere")
    refuse_to_list(tmp_path / "set" / unreadable, monkeypatch)
    name = f"folder:{tmp_path}/set"
    with refused("file-unreadable", DatasetCorrupt, match=re.escape(f"{tmp_path}/set/{unreadable} ")):
        describe(name)
    assert f"{tmp_path}/set/{unreadable} " in status(name).state


def test_the_folder_of_the_file_system_itself_is_passed_over(tmp_path, monkeypatch):
    save_images(tmp_path / "a", 10)
    (tmp_path / "lost+found").mkdir()
    refuse_to_list(tmp_path / "lost+found", monkeypatch)
    assert describe(f"folder:{tmp_path}").class_names == ("a",)


@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_a_file_is_counted_once(tmp_path, link):
    save_images(tmp_path / "b", 10)
    (tmp_path / "a").mkdir()
    for index in range(10):
        link(tmp_path / f"b/{index:03}.png", tmp_path / f"a/{index:03}.png")
    info = describe(f"folder:{tmp_path}")
    assert sum(len(images) for images in images_of(info.name).values()) == 10
    assert info.class_names == (("b",) if link is os.symlink else ("a",))  # its real path, else the first
    assert info.notes[0].startswith("10 paths ")


@pytest.mark.parametrize("link", [os.symlink, os.link, "folder"])
def test_a_file_of_two_splits_is_refused(tmp_path, link):
    save_images(tmp_path / "train/a", 10)
    (tmp_path / "test").mkdir()
    if link == "folder":
        (tmp_path / "test/a").symlink_to(tmp_path / "train/a")
        other = tmp_path / "test/a/000.png"
    else:
        other = tmp_path / "test/000.png"
        link(tmp_path / "train/a/000.png", other)
    for ask in (load_dataset, describe, own_channels):
        with pytest.raises(ValueError, match=f"{tmp_path}/train/a/000.png .*{other}") as caught:
            ask(f"folder:{tmp_path}")
    found = status(f"folder:{tmp_path}")
    assert found.state.startswith(f"corrupt: {tmp_path}/train/a/000.png ")
    assert found.advice[1:-1] in str(caught.value)  # what to do


def test_the_order_does_not_depend_on_the_file_system(tmp_path, monkeypatch):
    for name in "cab":
        save_images(tmp_path / name, 10, first=ord(name))
    (tmp_path / "b/y").symlink_to("../../other")
    (tmp_path / "b/x").symlink_to("../../other")
    save_images(tmp_path.parent / "other", 3, first=5)
    before = images_of(f"folder:{tmp_path}"), describe(f"folder:{tmp_path}")
    walk = os.walk

    def backwards(folder, **options):
        for parent, folders, names in walk(folder, **options):
            folders.reverse()
            yield parent, folders, names[::-1]

    monkeypatch.setattr(os, "walk", backwards)
    assert (images_of(f"folder:{tmp_path}"), describe(f"folder:{tmp_path}")) == before


# Transparency


def test_transparency_shows_the_background(tmp_path):
    glyph = np.zeros((8, 8, 4), np.uint8)  # black everywhere; the drawing is in the alpha channel
    glyph[2:6, 3, 3] = 255
    path = save(tmp_path / "a.png", glyph)
    assert torch.equal(decode(path)[0, 0] == 0, torch.from_numpy(glyph[..., 3] == 255))
    assert decode(path).unique().tolist() == [0, 255]
    assert decode(path, background=(0, 0, 0)).unique().tolist() == [0]
    half = save(tmp_path / "b.png", np.full((8, 8, 4), (200, 100, 0, 128), np.uint8))
    assert decode(half, background=(10, 20, 30))[0, :, 0, 0].tolist() == [105, 60, 15]


@pytest.mark.parametrize("kind", ["LA", "L", "RGB", "1", "P", "gif"])
def test_every_kind_of_transparency(tmp_path, kind):
    """The left column is transparent; the others are opaque and keep their values."""
    grey = np.tile(np.array([0, 60, 255, 255], np.uint8), (4, 1))
    path = tmp_path / ("a.gif" if kind == "gif" else "a.png")
    options: dict[str, Any] = {"transparency": 0}
    if kind == "LA":
        image, options = Image.merge("LA", [Image.fromarray(grey), Image.fromarray(np.uint8(grey > 0) * 255)]), {}
    elif kind in ("P", "gif"):
        image = Image.fromarray(np.tile(np.array([0, 1, 2, 2], np.uint8), (4, 1)))
        image.putpalette([0, 0, 0, 60, 70, 80, 255, 255, 255])
    elif kind == "1":
        grey = np.tile(np.array([0, 255, 255, 255], np.uint8), (4, 1))
        image = Image.fromarray(grey).convert("1")
    else:
        image = Image.fromarray(grey).convert(kind)
        options = {"transparency": (0, 0, 0) if kind == "RGB" else 0}
    image.save(path, **options)
    second = {"P": [60, 70, 80], "gif": [60, 70, 80], "RGB": [60] * 3, "1": [255]}.get(kind, [60])
    found = decode(path)
    assert found.shape[1] == len(second) == read_header(path).channels
    assert read_header(path).transparent
    assert found[0, :, 1, 1].tolist() == second
    assert found[0, :, :, 0].unique().tolist() == [255]
    assert decode(path, background=(9, 9, 9))[0, :, :, 0].unique().tolist() == [9]
    assert found[0, :, :, 2:].unique().tolist() == [255]


def test_an_opaque_alpha_channel_changes_nothing(tmp_path):
    colours = pixels_of(64, 64, 3)
    grey = np.arange(256, dtype=np.uint8).reshape(16, 16)
    opaque = np.full((64, 64), 255, np.uint8)
    with_alpha = save(tmp_path / "a.png", np.dstack([colours, opaque]))
    for background in ((255, 255, 255), (3, 2, 1)):
        assert torch.equal(decode(with_alpha, background), decode(save(tmp_path / "b.png", colours)))
    Image.merge("LA", [Image.fromarray(grey), Image.new("L", (16, 16), 255)]).save(tmp_path / "c.png")
    assert decode(tmp_path / "c.png")[0, 0].tolist() == grey.tolist()


def test_transparency_is_noted(tmp_path):
    save(tmp_path / "a.png", pixels_of(4, 4, 4))
    save(tmp_path / "b.png", pixels_of(4, 4, 3))
    (note,) = describe(f"folder:{tmp_path}").notes
    assert note.startswith("1 ")
    assert f"(such as {tmp_path}/a.png)" in note
    assert note.endswith("RGB 255, 255, 255")


# More than 8 bits


def deep_png(channels):
    """Return a PNG file with 16 bits per channel, which Pillow cannot write."""
    colour_type = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    rows = b"".join(b"\0" + bytes(4 * 2 * channels) for _ in range(4))
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", 4, 4, 16, colour_type, 0, 0, 0)), (b"IDAT", zlib.compress(rows))]
    parts = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in [*chunks, (b"IEND", b"")]
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def deep_tiff():
    """Return a TIFF file of 4x4 RGB with 16 bits per channel, which Pillow cannot write."""
    bits, pixels = 8 + 2 + 12 * 9 + 4, 8 + 2 + 12 * 9 + 4 + 6
    fields = [(256, 4), (257, 4), (258, bits), (259, 1), (262, 2), (273, pixels), (277, 3), (278, 4), (279, 96)]
    entries = b"".join(struct.pack("<HHII", tag, 3, 3 if tag == 258 else 1, value) for tag, value in fields)
    head = b"II*\0" + struct.pack("<IH", 8, len(fields)) + entries + bytes(4)
    return head + struct.pack("<HHH", 16, 16, 16) + bytes(96)


def patched(kind, *changes):
    """Return an 8-bit file whose header is changed: each change is (a marker, an offset from it, the new bytes)."""
    out = io.BytesIO()
    Image.fromarray(pixels_of(16, 16, 3)).save(out, kind)
    data = bytearray(out.getvalue())
    for marker, offset, new in changes:
        at = data.index(marker) + offset
        data[at : at + len(new)] = new
    return bytes(data)


DEEP = {
    "rgb.png": lambda: deep_png(3),
    "rgba.png": lambda: deep_png(4),
    "la.png": lambda: deep_png(2),
    "l.png": lambda: deep_png(1),
    "rgb.tif": deep_tiff,
    "rgb.ppm": lambda: b"P6 4 4 65535\n" + bytes(96),
    "rgb.sgi": lambda: struct.pack(">HBBHHHH", 474, 0, 2, 3, 4, 4, 3).ljust(512, b"\0") + bytes(96),
    "rgb.jp2": lambda: patched("JPEG2000", (b"\xff\x4f\xff\x51", 42, bytes([15]))),
    "rgb.avif": lambda: patched("AVIF", (b"av1C", 6, bytes([64 + 12])), (b"pixi", 9, bytes([10] * 3))),
}


@pytest.mark.parametrize("file", DEEP)
def test_more_than_8_bits_per_channel_are_refused(tmp_path, file):
    if file == "rgb.avif" and not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    path = tmp_path / file
    path.write_bytes(DEEP[file]())
    for ask in (decode, read_header, lambda _: describe(f"folder:{tmp_path}")):
        with pytest.raises(ValueError, match=rf"{re.escape(file)} .*\(.*\): .*8 bits"):
            ask(path)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM", "SGI", "JPEG2000", "AVIF", "WEBP", "BMP", "JPEG", "TGA"])
@pytest.mark.parametrize("mode", ["RGB", "L", "P", "1"])
def test_8_bits_per_channel_are_read(tmp_path, kind, mode):
    if kind == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    image = Image.fromarray(pixels_of(16, 16, 3)).convert(mode)
    try:
        image.save(tmp_path / "a", kind)
    except (OSError, ValueError):
        pytest.skip(f"{kind} has no mode {mode}")
    assert decode(tmp_path / "a").shape[2:] == (16, 16)


# Orientation


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif", "avif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_turned_as_their_exif_says(tmp_path, suffix, orientation):
    if suffix == "avif" and not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    corner = np.zeros((16, 32, 3), np.uint8)
    corner[:8, :8] = (255, 255, 255)
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"a.{suffix}"
    options: dict[str, Any] = {"tiffinfo": exif} if suffix == "tif" else {}
    Image.fromarray(corner).save(path, exif=exif, **options)
    shape = (32, 16) if orientation >= 5 else (16, 32)
    assert read_header(path).size == shape[::-1]
    assert describe(f"folder:{tmp_path}").image_shape == (3, *shape)
    found = decode(path)[0, 0].float()
    assert found.shape == shape
    # Where the first row and the first column of the file are to be shown (EXIF 2.3, tag 0x0112).
    top = orientation in (1, 2, 5, 6)
    left = orientation in (1, 4, 5, 8)
    bright = found[:8] if top else found[-8:]
    bright = bright[:, :8] if left else bright[:, -8:]
    assert bright.mean() > 250
    assert found.sum() < 1.1 * bright.sum()


def test_an_orientation_after_the_pixels_is_refused(tmp_path):
    out = io.BytesIO()
    Image.fromarray(pixels_of(4, 6, 3)).save(out, "PNG")
    exif = Image.Exif()
    for orientation in (1, 6):
        exif[0x0112] = orientation
        path = tmp_path / f"{orientation}.png"
        path.write_bytes(png_with((b"eXIf", exif.tobytes()[6:]), b"IEND", out.getvalue()))
    assert decode(tmp_path / "1.png").shape == (1, 3, 4, 6)
    with pytest.raises(ValueError, match=r"6\.png .*EXIF"):
        decode(tmp_path / "6.png")


def test_damaged_exif_does_not_matter(tmp_path):
    pixels = np.full((8, 8, 3), 7, np.uint8)
    path = save(tmp_path / "a.jpg", pixels, exif=b"Exif\0\0nonsense")
    assert decode(path)[0, :, 0, 0].tolist() == [7, 7, 7]
    assert read_header(path).size == (8, 8)


# Grey or colour


@pytest.mark.parametrize("kind", ["LA", "grey palette", "grey gif", "1"])
def test_what_keeps_a_folder_grey(tmp_path, kind):
    grey = pixels_of(8, 8)
    save(tmp_path / "a.png", grey)
    if kind == "LA":
        Image.merge("LA", [Image.fromarray(grey), Image.new("L", (8, 8), 255)]).save(tmp_path / "b.png")
    elif kind == "1":
        Image.fromarray(grey).convert("1").save(tmp_path / "b.png")
    else:
        image = Image.fromarray(grey)
        image.putpalette([level for level in range(255, -1, -1) for _ in range(3)])
        image.save(tmp_path / ("b.gif" if "gif" in kind else "b.png"))
        grey = 255 - grey
    info = describe(f"folder:{tmp_path}")
    assert info.image_shape == (1, 8, 8)
    assert not any("colour" in note for note in info.notes)
    assert own_channels(info.name) == 1
    if kind != "1":
        assert load_dataset(info.name)[0][1, 0].tolist() == grey.tolist()


@pytest.mark.parametrize("kind", ["palette", "gif", "bmp", "tif", "CMYK", "RGB"])
def test_what_makes_a_folder_coloured_is_named(tmp_path, kind):
    save_images(tmp_path / "a", 3)
    image = Image.fromarray(pixels_of(8, 8, 3))
    mode, suffix = {
        "palette": ("P", "png"), "gif": ("P", "gif"), "bmp": ("P", "bmp"), "tif": ("P", "tif"), "CMYK": ("CMYK", "jpg"),
        "RGB": ("RGB", "png"),
    }[kind]  # fmt: skip
    path = tmp_path / f"a/b.{suffix}"
    image.convert(mode).save(path)
    info = describe(f"folder:{tmp_path}")
    assert info.image_shape == (3, 8, 8)
    for shape, read_as in ((None, "colour"), ((1, 8, 8), "grey")):
        (note,) = describe(info.name, image_shape=shape).notes
        assert re.match(r"3 .* grey .* 1 .* colour ", note)
        assert f"(such as {tmp_path}/a/000.png)" in note
        assert f"(such as {path})" in note
        assert note.endswith(f" {read_as}")


# Several pictures in a file


@pytest.mark.parametrize("kind", ["gif", "png", "webp", "tif"])
def test_files_with_many_frames_are_refused(tmp_path, kind):
    first, second = (Image.fromarray(pixels_of(8, 8, 3, seed=seed)) for seed in (0, 1))
    path = tmp_path / f"a.{kind}"
    first.save(path, save_all=True, append_images=[second])
    for ask in (decode, read_header, lambda _: load_dataset(f"folder:{tmp_path}")):
        with pytest.raises(ValueError, match=rf"a\.{kind} .*\b2 frames"):
            ask(path)
    first.save(path, save_all=True)
    assert decode(path).shape == (1, 3, 8, 8)


def test_a_photograph_with_a_preview_is_one_image(tmp_path):
    first, second = (Image.new("RGB", (8, 8), (level,) * 3) for level in (10, 200))
    first.save(tmp_path / "a.mpo", save_all=True, append_images=[second])
    (tmp_path / "a.mpo").rename(tmp_path / "a.jpg")  # as cameras name them
    photograph = Image.open(tmp_path / "a.jpg")
    assert isinstance(photograph, MpoImageFile)
    assert photograph.n_frames == 2
    assert decode(tmp_path / "a.jpg").unique().tolist() == [10]


def test_headers_are_read_without_pixels(tmp_path, monkeypatch):
    exif = Image.Exif()
    exif[0x0112] = 6
    for suffix in ("png", "jpg", "webp", "tif"):
        save(tmp_path / f"a.{suffix}", pixels_of(4, 6, 3), exif=exif)
    palette = Image.fromarray(pixels_of(6, 4))
    palette.putpalette(pixels_of(768).tolist())
    palette.save(tmp_path / "b.png")
    palette.save(tmp_path / "b.gif")
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda _: pytest.fail("reads pixels"))
    assert describe(f"folder:{tmp_path}").image_shape == (3, 6, 4)
