"""The base class of errors that a user can meet, and the advice that their messages share."""

from __future__ import annotations

from typing import ClassVar

__all__ = ["DOWNLOAD_ADVICE", "SHAPE_ADVICE", "SIDES_ADVICE", "SMALLER_ADVICE", "UserError"]

# Advice in messages, in words of the library. A program with flags of its own can replace it.
DOWNLOAD_ADVICE = "load with download=True"
SHAPE_ADVICE = "load with an image_shape of their channels and one size"
SIDES_ADVICE = "load with an image_shape whose sides are multiples of"
SMALLER_ADVICE = "load with a smaller image_shape"


class UserError(Exception):
    """Something that the user can put right; the message is one sentence that says what was wrong and what to do.

    A program shows the message instead of a traceback and exits with `exit_code`: 1 for what failed, 2 for what was
    asked wrongly.
    """

    exit_code: ClassVar[int] = 1
