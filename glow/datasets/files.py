"""The files of "folder:PATH" and "parquet:PATH", with the splits and the classes that their paths say. None is opened.

docs/data.md lists the rules: which folders are splits and classes, and how links are followed.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import TypeVar

from glow.datasets.base import SPLITS, DatasetCorrupt, DatasetNotFound, place_of
from glow.datasets.buckets import BucketFile, BucketFolder, is_uri
from glow.datasets.splits import (
    ALL,
    first_word,
    no_split_notes,
    one_name_per_split,
    split_folders,
    split_named,
    splits_of,
)

Source = TypeVar("Source", Path, BucketFile)

FILE_SYSTEMS_OWN = "lost+found"
"""The folder at the root of an ext file system. Only root can list it, and it holds no images of a user."""


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

    Examples:
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
        return (*_link_notes(self.left_out), *no_split_notes(self.in_no_split))


def folder_files(name: str) -> Listing:
    """List the image files of "folder:PATH".

    Raises:
        DatasetNotFound: if there are none.
        DatasetCorrupt: if the system cannot list a folder, or a split has two folders.
        ValueError: for images next to class folders, which have no class, or a file in two splits. `ImageSource.status`
            splits its message at the first "; " into what is wrong and what to do.

    Examples:
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
        raise DatasetNotFound.here(name, "not a folder", "give folder:PATH the path of a folder with images")
    folders = split_folders([name for name in _names_in(path) if (path / name).is_dir()])
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


def image_files(folder: Path) -> list[Path]:
    """List all image files in a folder and its subfolders, whatever the names of these, in the order of their paths.

    Folders that the system cannot list are passed over.

    Args:
        folder: the folder.

    Examples:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as path:
        ...     for file in ("a.png", "b/c.JPG", "notes.txt"):
        ...         Path(path, file).parent.mkdir(exist_ok=True)
        ...         Path(path, file).touch()
        ...     [file.name for file in image_files(Path(path))]
        ['a.png', 'c.JPG']
    """
    suffixes = _suffixes()
    return sorted(path for _, path in walk(folder, pass_over_unreadable=True)[0] if path.suffix.lower() in suffixes)


def images_in_bucket(folder: BucketFolder) -> list[BucketFile]:
    """List all image files in a folder of a bucket, in the order of their paths. Hidden ones are passed over.

    Raises:
        DatasetNotFound: if the folder cannot be listed.

    Examples:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as path:
        ...     bucket = BucketFolder(f"file://{path}")
        ...     for name in ("a.png", "b/c.JPG", ".hidden.png", "notes.txt"):
        ...         bucket.write(name, b"not really")
        ...     [file.name for file in images_in_bucket(bucket)]
        ['a.png', 'c.JPG']
    """
    suffixes = _suffixes()
    return [
        file
        for file in folder.files()
        if file.suffix.lower() in suffixes and not any(part.startswith(".") for part in file.relative.parts)
    ]


def _in_no_split(path: Path, folders: Collection[str], parts: Mapping[str, list[tuple[Path, str]]]) -> tuple[str, ...]:
    """Return the paths, relative to the folder, of the images next to the folders of the splits."""
    suffixes = _suffixes()
    others = [path / name for name in _names_in(path) if name not in folders]
    walked = [[other] if os.path.isfile(other) else [file for _, file in walk(other, True)[0]] for other in others]
    images = sorted(file for files in walked for file in files if file.suffix.lower() in suffixes)
    if not images:
        return ()
    listed = {_identity(file) for files in parts.values() for file, _ in files}
    return tuple(str(file.relative_to(path)) for file in images if _identity(file) not in listed)


def _list_in_bucket(folder: BucketFolder) -> Listing:
    """List the image files of a folder in a bucket, where there are no links.

    Raises:
        DatasetNotFound: if there are none.
        DatasetCorrupt: if a split has two folders.
        ValueError: for images next to class folders.
    """
    images = images_in_bucket(folder)
    if not images:
        raise _no_images(folder)
    first_parts = {file.relative.parts[0] for file in images if len(file.relative.parts) > 1}
    folders = split_folders(first_parts)
    one_name_per_split(folder, folders)
    by_part: dict[str, list[tuple[PurePath, BucketFile]]] = {}
    in_no_split = []
    for file in images:
        first, *rest = file.relative.parts
        if not folders:
            by_part.setdefault(ALL, []).append((file.relative, file))
        elif first in folders:
            by_part.setdefault(folders[first], []).append((PurePath(*rest), file))
        else:
            in_no_split.append(str(file.relative))
    flat_name = folder.uri.partition("?")[0].rstrip("/").rpartition("/")[2]
    parts = {part: _with_classes(folder, files, flat_name) for part, files in by_part.items()}
    return Listing(parts, in_no_split=tuple(in_no_split))


def _with_classes(
    place: Path | BucketFolder, files: Sequence[tuple[PurePath, Source]], flat_name: str
) -> list[tuple[Source, str]]:
    """Return image files with their classes: the first folder of each path, or `flat_name` if there are no folders.

    Args:
        place: the folder, for the error.
        files: for each file, its path relative to the folder of its split, and the file.
        flat_name: the name of the only class.

    Raises:
        ValueError: for images next to class folders.
    """
    loose = [path for path, _ in files if len(path.parts) == 1]
    if loose and len(loose) < len(files):
        raise ValueError(
            f"{place} has images in class folders and images next to these folders ({loose[0]}); move the latter into "
            "class folders"
        )
    return [(file, flat_name if loose else path.parts[0]) for path, file in files]


def _no_images(place: Path | BucketFolder) -> DatasetNotFound:
    return DatasetNotFound(
        f"{place} contains no file with the extension of an image, such as .png or .jpg",
        remedy="put images with such an extension there, or name another folder",
        code="no-images",
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
        if found.setdefault(_identity(path), path) != path:
            left_out.append(path)
    paths = sorted(path.relative_to(folder) for path in found.values())
    return _with_classes(folder, [(path, folder / path) for path in paths], flat_name), sorted(left_out)


def _check_disjoint(parts: Mapping[str, list[tuple[Path, str]]]) -> None:
    """Raise ValueError if a file is in two splits."""
    if len(parts) == 1:  # of which `_files_by_class` lists each file once
        return
    seen: dict[object, Path] = {}
    for files in parts.values():
        for path, _ in files:
            other = seen.setdefault(_identity(path), path)
            if other != path:
                raise ValueError(f"{other} and {path}, in two splits, are the same file; remove it from one split")


Listed = Sequence[tuple[str, Path | BucketFile]]
"""Parquet files, each after its path relative to the folder, in the order of these paths."""


@dataclass(frozen=True)
class Files:
    """The Parquet files of a data set.

    Attributes:
        by_part: the files of each split, in the order of their paths, or all files under `ALL`.
        notes: what a user should know about files that are in no part; one sentence each.

    Examples:
        >>> Files({"train": [Path("train-0.parquet")]}).notes
        ()
    """

    by_part: dict[str, list[Path | BucketFile]]
    notes: tuple[str, ...] = ()


def parquet_files(name: str) -> Files:
    """List the Parquet files.

    Args:
        name: name of the data set, such as ``parquet:PATH``.

    Raises:
        DatasetNotFound: if there are none.
        DatasetCorrupt: if the system cannot list a folder, or a split has two names in a folder.

    Examples:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for file in ("train-0.parquet", "test-0.parquet", "cats.parquet"):
        ...         Path(folder, file).touch()
        ...     files = parquet_files(f"parquet:{folder}")
        >>> sorted(files.by_part), files.notes
        (['test', 'train'], ('1 file is in no split: cats.parquet',))
    """
    place = place_of(name)
    assert place is not None
    listed, left_out = _in_bucket(place.path) if is_uri(place.path) else _on_disk(name, place.path)
    if not listed:
        raise DatasetNotFound(
            f"{name} has no .parquet files", remedy="put some there, or name another folder", code="dataset-not-found"
        )
    files = _by_split(name, listed)
    return Files(files.by_part, (*_link_notes(left_out), *files.notes))


def _in_bucket(uri: str) -> tuple[Listed, list[Path]]:
    files = [(str(file.relative), file) for file in BucketFolder(uri).files()]
    if not files:  # the path may be that of a file
        path, question_mark, options = uri.partition("?")
        parent, _, last = path.rpartition("/")
        files = [
            (last, file)
            for file in BucketFolder(parent + question_mark + options).files()
            if str(file.relative) == last
        ]
    return [(path, file) for path, file in files if path.endswith(".parquet") and not _is_hidden(path)], []


def _is_hidden(path: str) -> bool:
    return any(part.startswith(".") for part in path.split("/"))


def _on_disk(name: str, path_text: str) -> tuple[Listed, list[Path]]:
    """Return the files, and the folders that are left out because links lead to them twice."""
    path = Path(path_text).expanduser().absolute()
    if path.is_file():
        return [(path.name, path)], []
    if not path.is_dir():
        remedy = "give parquet:PATH the path of a file or folder"
        raise DatasetNotFound.here(name, "neither a file nor a folder", remedy)
    walked, left_out = walk(path)
    files = sorted(file for _, file in walked if file.suffix == ".parquet" and file.is_file())
    return [(str(file.relative_to(path)), file) for file in files], sorted(left_out)


def _by_split(name: str, listed: Listed) -> Files:
    """Assign files, each with its path relative to the folder, to splits.

    Raises:
        DatasetCorrupt: if a split has two names in a folder.
    """
    by_part: dict[str, list[Path | BucketFile]] = {}
    words: dict[str, set[str]] = {}
    in_no_split = []
    for relative, source in listed:
        folder, word = _nearest_word(relative)
        split = split_named(word) if word else None
        if word is None or split is None:
            in_no_split.append(relative)
            continue
        words.setdefault(folder, set()).add(word)
        by_part.setdefault(split, []).append(source)
    for folder, found in words.items():
        one_name_per_split(f"{name}/{folder}".rstrip("/"), found)
    if not by_part:
        return Files({ALL: [source for _, source in listed]})
    return Files(by_part, no_split_notes(in_no_split))


def _nearest_word(relative: str) -> tuple[str, str | None]:
    """Return the name of a split in a path, of those nearest to the file, and the folder that contains this name."""
    folder, _, last = relative.rpartition("/")
    word = first_word(last)
    return (folder, word) if word or not folder else _nearest_word(folder)


def walk(folder: Path, pass_over_unreadable: bool = False) -> tuple[list[tuple[bool, Path]], list[Path]]:
    """List the files that are not hidden, following links.

    Each folder of the disk is entered once, by its real path rather than by a link to it, so that links cannot lead in
    circles.

    Args:
        folder: where to begin.
        pass_over_unreadable: pass over folders that the system cannot list.

    Returns:
        The files, each with whether a link leads to it, and the folders that are left out because they were entered
        under another path.

    Raises:
        DatasetCorrupt: if the system cannot list a folder, unless such folders are passed over.

    Examples:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as path:
        ...     Path(path, "a.png").touch()
        ...     Path(path, "up").symlink_to(".")
        ...     files, left_out = walk(Path(path))
        >>> [(linked, file.name) for linked, file in files], [folder.name for folder in left_out]
        ([(False, 'a.png')], ['up'])
    """
    onerror = None if pass_over_unreadable else _refuse
    entered: set[object] = set()
    files: list[tuple[bool, Path]] = []
    left_out: list[Path] = []
    waiting = deque([folder])
    while waiting:
        start = waiting.popleft()
        for parent, folders, names in os.walk(start, onerror=onerror):  # os.walk itself does not follow links
            key = _identity(Path(parent))
            if key in entered:
                left_out.append(Path(parent))
                folders.clear()
                continue
            entered.add(key)
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            waiting += [path for path in (Path(parent, name) for name in folders) if os.path.islink(path)]
            for path in (Path(parent, name) for name in names if not name.startswith(".")):
                files.append((start != folder or os.path.islink(path), path))
    return files, left_out


def _names_in(folder: Path) -> list[str]:
    """Return the sorted names in a folder that are not hidden.

    Raises:
        DatasetCorrupt: if the system cannot list the folder.
    """
    try:
        return sorted(name for name in os.listdir(folder) if not name.startswith("."))
    except OSError as error:
        raise _unreadable(error) from error


def _identity(path: Path) -> object:
    """Return a key that is equal for all paths to the same file or folder of the disk."""
    try:
        found = path.stat()
    except OSError:  # a dead link, which raises an error when it is read
        return path
    return (found.st_dev, found.st_ino) if found.st_ino else os.path.realpath(path)


def _link_notes(left_out: Sequence[Path]) -> tuple[str, ...]:
    """Return one sentence about paths that are left out because of links; an empty tuple if there are none."""
    if not left_out:
        return ()
    what = "1 path is" if len(left_out) == 1 else f"{len(left_out)} paths are"
    return (f"{what} left out (such as {left_out[0]}): links to files or folders that are listed already",)


def _refuse(error: OSError) -> None:
    if Path(error.filename).name != FILE_SYSTEMS_OWN:
        raise _unreadable(error) from error


def _unreadable(error: OSError) -> DatasetCorrupt:
    return DatasetCorrupt(
        f"the folder {error.filename} cannot be listed ({error.strerror or error})",
        remedy="check the folder, its permissions and its disk",
        code="file-unreadable",
    )
