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
    """An error that the user can put right.

    A program shows the message, one sentence, in place of a traceback, and exits with `exit_code`.

    Args:
        problem: what was wrong, with the value that was wrong.
        remedy: what to do about it, a clause in the imperative; empty only if `problem` is another error's whole
            sentence.
        code: the name of this kind of error, such as "run-not-found", for scripts and tests.

    Attributes:
        exit_code: 1 if something failed, 2 if what was asked for is wrong.

    Example:
        >>> error = UserError("a.png is 7x9", remedy="crop it to 8x8", code="image-shape")
        >>> str(error), error.code
        ('a.png is 7x9: crop it to 8x8', 'image-shape')
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, problem: str, *, remedy: str = "", code: str = "") -> None:
        super().__init__(f"{problem}: {remedy}" if remedy else problem)
        self.problem, self.remedy, self.code = problem, remedy, code
