"""The listing of a data set of Parquet files, and the splits that their names and folders say.

docs/data.md, "Parquet", lists the rules.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from glow.datasets.base import DatasetNotFound
from glow.datasets.buckets import BucketFile, BucketFolder, is_uri
from glow.datasets.names import place_of
from glow.datasets.parts import ALL
from glow.datasets.split_names import first_word, no_split_notes, one_name_per_split, split_named
from glow.datasets.walk import link_notes, walk

__all__ = ["Files", "parquet_files"]


Listed = Sequence[tuple[str, Path | BucketFile]]
"""Parquet files, each after its path relative to the folder, in the order of these paths."""


@dataclass(frozen=True)
class Files:
    """The Parquet files of a data set.

    Attributes:
        by_part: the files of each split, in the order of their paths, or all files under `ALL`.
        notes: what a user should know about files that are in no part; one sentence each.

    Example:
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

    Example:
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
    return Files(files.by_part, (*link_notes(left_out), *files.notes))


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
        raise DatasetNotFound(
            f"{name} is neither a file nor a folder on this machine",
            remedy="give parquet:PATH the path of a file or folder",
            code="dataset-not-found",
        )
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
