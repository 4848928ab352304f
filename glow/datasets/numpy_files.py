"""The errors that numpy raises for files that are no arrays, because they are damaged, cut short or empty."""

from __future__ import annotations

import tokenize
import zipfile
import zlib

__all__ = ["NOT_AN_ARRAY", "reason"]

NOT_AN_ARRAY = (
    OSError,
    ValueError,
    EOFError,  # an empty file, or one that ends within an array
    TypeError,  # a damaged header
    tokenize.TokenError,  # a damaged header, too
    zipfile.BadZipFile,
    zlib.error,
    RuntimeError,  # an archive that is encrypted or, as NotImplementedError, compressed in an unknown way
    AttributeError,  # an .npy file with the name of an .npz file
)
"""The errors of `numpy.load`, found by changing bytes of .npy and .npz files at random."""


def reason(error: Exception) -> str:
    r"""Return the first line of an error's text, or the name of its type if it has no text.

    Args:
        error: one of `NOT_AN_ARRAY`.

    Example:
        >>> reason(ValueError("no magic string\nat the start")), reason(EOFError())
        ('no magic string', 'EOFError')
    """
    return next(iter(str(error).splitlines()), "") or type(error).__name__
