"""`one_look`: the files of a data set are listed, and their headers read, once for several calls.

Without it, `describe` and `open_dataset` list a folder or Parquet files at every call. That takes time, and a file that
is added between two calls would move images to other splits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

__all__ = ["once", "one_look"]

Result = TypeVar("Result")

_known: ContextVar[dict[object, Any] | None] = ContextVar("known", default=None)
"""The listings and surveys of the present block of `one_look`; None outside such a block."""


@contextmanager
def one_look(known: dict[object, Any] | None = None) -> Iterator[None]:
    """List the files of each data set, and read the headers of a folder's files, only once within the `with` block.

    The functions of `glow.datasets` otherwise do both at every call, because files may change between two calls.

    Args:
        known: the results of an earlier block, which this block takes over and adds to; None for no results.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> from glow.datasets.folder import folder_channels
        >>> with tempfile.TemporaryDirectory() as path, one_look():
        ...     Image.new("L", (6, 4)).save(f"{path}/grey.png")
        ...     grey = folder_channels(f"folder:{path}")
        ...     Image.new("RGB", (6, 4)).save(f"{path}/red.png")
        ...     grey, folder_channels(f"folder:{path}")
        (1, 1)
    """
    token = _known.set({} if known is None else known)
    try:
        yield
    finally:
        _known.reset(token)


def once(key: object, look: Callable[[], Result]) -> Result:
    """Return `look()`, or within a block of `one_look` what it returned before for this key.

    Example:
        >>> with one_look():
        ...     once("digit", lambda: 7), once("digit", lambda: 8)
        (7, 7)
    """
    known = _known.get()
    if known is None:
        return look()
    if key not in known:
        known[key] = look()
    result: Result = known[key]
    return result
