"""The listing of the image files of a folder, with the split and the class that their paths say.

docs/data.md lists the rules: which folders are splits and classes, and how links are followed. No file is opened.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from glow.datasets.base import SPLITS, DatasetNotFound
from glow.datasets.buckets import BucketFile, BucketFolder, is_uri
from glow.datasets.parts import ALL, splits_of
from glow.datasets.split_names import no_split_notes, one_name_per_split, split_folders
from glow.datasets.walk import identity, link_notes, names_in, walk

__all__ = ["Listing", "folder_files"]


@dataclass(frozen=True)
class Listing:
    """The image files of a folder.

    Attributes:
        parts: for each part, the path and the class of every image file, in the order of the paths. Each split that has
            a folder with images is a part. If there is neither a train nor a test folder, all files are the part `ALL`.
        left_out: paths that are not in `parts`, because they are links to files or folders that are listed under
            another path.
        in_no_split: paths, relative to the folder, of images that are not in `parts`, because they are next to the
            folders of the splits.

    Example:
        >>> listing = Listing({"train": [(Path("train/cat/0.png"), "cat"), (Path("train/dog/0.png"), "dog")]})
        >>> listing.class_names, listing.splits
        (('cat', 'dog'), ('train', 'validation'))
    """

    parts: dict[str, list[tuple[Path, str]]] | dict[str, list[tuple[BucketFile, str]]]
    left_out: tuple[Path, ...] = ()
    in_no_split: tuple[str, ...] = ()

    @property
    def files(self) -> list[Path | BucketFile]:
        """The image files of all parts."""
        return [path for files in self.parts.values() for path, _ in files]

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes of all parts, sorted."""
        return tuple(sorted({name for files in self.parts.values() for _, name in files}))

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that can be opened. If there are train images, validation images can be held out of them."""
        return splits_of(self.parts)

    @property
    def notes(self) -> tuple[str, ...]:
        """One sentence about the paths in `left_out`, and one about those in `in_no_split`, if there are any."""
        return (*link_notes(self.left_out), *no_split_notes(self.in_no_split))


def folder_files(name: str) -> Listing:
    """List the image files of "folder:PATH".

    Raises:
        DatasetNotFound: if there are none.
        DatasetCorrupt: if the system cannot list a folder, or a split has two folders.
        ValueError: for images next to class folders, which have no class, or a file in two splits. `folder_status`
            splits its message at the first "; " into what is wrong and what to do.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as path:
        ...     for file in ("train/cat/0.png", "train/dog/0.png", "test/cat/0.png", "0.png"):
        ...         Path(path, file).parent.mkdir(parents=True, exist_ok=True)
        ...         Path(path, file).touch()
        ...     listing = folder_files(f"folder:{path}")
        >>> [(part, len(files)) for part, files in listing.parts.items()], listing.in_no_split
        ([('train', 2), ('test', 1)], ('0.png',))
    """
    place = name.removeprefix("folder:")
    if is_uri(place):
        return _list_in_bucket(BucketFolder(place))
    path = Path(place).expanduser().absolute()
    if not path.is_dir():
        raise DatasetNotFound(
            f"{name} is not a folder on this machine",
            remedy="give folder:PATH the path of a folder with images",
            code="dataset-not-found",
        )
    folders = split_folders([name for name in names_in(path) if (path / name).is_dir()])
    listed = {path / sub: _files_by_class(path / sub, path.name) for sub in folders or [""]}
    in_order = sorted(folders.items(), key=lambda named: SPLITS.index(named[1])) or [("", ALL)]
    full = {sub: part for sub, part in in_order if listed[path / sub][0]}
    if not full:
        raise _no_images(path)
    if folders:
        one_name_per_split(path, full)
    parts = {part: listed[path / sub][0] for sub, part in full.items()}
    _check_disjoint(parts)
    links = tuple(link for sub, _ in in_order for link in listed[path / sub][1])
    return Listing(parts, links, _in_no_split(path, folders, parts) if folders else ())


def _in_no_split(path: Path, folders: Collection[str], parts: Mapping[str, list[tuple[Path, str]]]) -> tuple[str, ...]:
    """Return the paths, relative to the folder, of the images next to the folders of the splits."""
    suffixes = _suffixes()
    others = [path / name for name in names_in(path) if name not in folders]
    walked = [[other] if os.path.isfile(other) else [file for _, file in walk(other, True)[0]] for other in others]
    images = sorted(file for files in walked for file in files if file.suffix.lower() in suffixes)
    if not images:
        return ()
    listed = {identity(file) for files in parts.values() for file, _ in files}
    return tuple(str(file.relative_to(path)) for file in images if identity(file) not in listed)


def _list_in_bucket(folder: BucketFolder) -> Listing:
    """List the image files of a folder in a bucket, where there are no links.

    Raises:
        DatasetNotFound: if there are none.
        DatasetCorrupt: if a split has two folders.
        ValueError: for images next to class folders.
    """
    suffixes = _suffixes()
    images = [
        file
        for file in folder.files()
        if file.suffix.lower() in suffixes and not any(part.startswith(".") for part in file.relative.parts)
    ]
    if not images:
        raise _no_images(folder)
    first_parts = {file.relative.parts[0] for file in images if len(file.relative.parts) > 1}
    folders = split_folders(first_parts)
    one_name_per_split(folder, folders)
    by_part: dict[str, list[BucketFile]] = {}
    in_no_split = []
    for file in images:
        part = folders.get(file.relative.parts[0]) if folders else ALL
        if part is None:
            in_no_split.append(str(file.relative))
        else:
            by_part.setdefault(part, []).append(file)
    flat_name = folder.uri.partition("?")[0].rstrip("/").rpartition("/")[2]
    depth = 1 if folders else 0
    parts = {part: _bucket_classes(files, depth, flat_name) for part, files in by_part.items()}
    return Listing(parts, in_no_split=tuple(in_no_split))


def _bucket_classes(files: list[BucketFile], depth: int, flat_name: str) -> list[tuple[BucketFile, str]]:
    """Return the files with their classes: the folder names at this depth, or `flat_name` if there are none.

    Raises:
        ValueError: for images next to class folders.
    """
    loose = [file for file in files if len(file.relative.parts) == depth + 1]
    if loose and len(loose) < len(files):
        raise _loose(files[0].folder, loose[0])
    return [(file, flat_name if loose else file.relative.parts[depth]) for file in files]


def _no_images(place: Path | BucketFolder) -> DatasetNotFound:
    return DatasetNotFound(
        f"{place} contains no file with the extension of an image, such as .png or .jpg",
        remedy="put images with such an extension there, or name another folder",
        code="no-images",
    )


def _loose(place: Path | BucketFolder, file: object) -> ValueError:
    return ValueError(
        f"{place} has images in class folders and images next to these folders ({file}); move the latter into class "
        "folders"
    )


def _suffixes() -> set[str]:
    """Return the extensions of the files that Pillow can open."""
    from PIL import Image

    return {suffix for suffix, kind in Image.registered_extensions().items() if kind in Image.OPEN}


def _files_by_class(folder: Path, flat_name: str) -> tuple[list[tuple[Path, str]], list[Path]]:
    """List the images of a folder with their classes.

    Args:
        folder: each of its subfolders is a class.
        flat_name: the name of the only class, if there are no subfolders with images.

    Returns:
        The images and their classes in the order of their paths, and the paths that are left out because they lead to
        files or folders that are listed already.
    """
    suffixes = _suffixes()
    files, left_out = walk(folder)
    images = [(linked, path) for linked, path in files if path.suffix.lower() in suffixes]
    found: dict[object, Path] = {}
    for _, path in sorted(images):  # so that a file's real path comes before links to it
        if found.setdefault(identity(path), path) != path:
            left_out.append(path)
    paths = sorted(path.relative_to(folder) for path in found.values())
    loose = [path for path in paths if len(path.parts) == 1]
    if loose and len(loose) < len(paths):
        raise _loose(folder, loose[0])
    return [(folder / path, flat_name if loose else path.parts[0]) for path in paths], sorted(left_out)


def _check_disjoint(parts: Mapping[str, list[tuple[Path, str]]]) -> None:
    """Raise ValueError if a file is in two splits."""
    if len(parts) == 1:  # of which `_files_by_class` lists each file once
        return
    seen: dict[object, Path] = {}
    for files in parts.values():
        for path, _ in files:
            other = seen.setdefault(identity(path), path)
            if other != path:
                raise ValueError(f"{other} and {path}, in two splits, are the same file; remove it from one split")
