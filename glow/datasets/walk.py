"""The listing of a folder with everything in it, along links but without circles.

docs/data.md, "A folder of your own", lists the rules.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Sequence
from pathlib import Path

from glow.datasets.base import DatasetCorrupt

__all__ = ["identity", "link_notes", "names_in", "walk"]

FILE_SYSTEMS_OWN = "lost+found"
"""The folder at the root of an ext file system. Only root can list it, and it holds no images of a user."""


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

    Example:
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
            key = identity(Path(parent))
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


def names_in(folder: Path) -> list[str]:
    """Return the sorted names in a folder that are not hidden.

    Raises:
        DatasetCorrupt: if the system cannot list the folder.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as path:
        ...     Path(path, "a.png").touch()
        ...     Path(path, ".b.png").touch()
        ...     names_in(Path(path))
        ['a.png']
    """
    try:
        return sorted(name for name in os.listdir(folder) if not name.startswith("."))
    except OSError as error:
        raise _unreadable(error) from error


def identity(path: Path) -> object:
    """Return a key that is equal for all paths to the same file or folder of the disk.

    Example:
        >>> identity(Path("/")) == identity(Path("/.."))
        True
    """
    try:
        found = path.stat()
    except OSError:  # a dead link, which raises an error when it is read
        return path
    return (found.st_dev, found.st_ino) if found.st_ino else os.path.realpath(path)


def link_notes(left_out: Sequence[Path]) -> tuple[str, ...]:
    """Return one sentence about paths that are left out because of links; an empty tuple if there are none.

    Example:
        >>> link_notes([Path("cats/up")])
        ('1 path is left out (such as cats/up): links to files or folders that are listed already',)
    """
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
