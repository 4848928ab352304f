"""The base class of errors that a user can meet, the errors of trainings, and the advice that several messages share.

Import `UserError` to catch every error of the library that the user can put right, or to define another one. This
module needs no torch, so that a program which only watches a training can tell its errors apart.
"""

from __future__ import annotations

from typing import ClassVar

# These clauses name arguments of the library. They are constants so that a program with flags can find them in a
# message and replace them by its flags.
DOWNLOAD_ADVICE = "load with download=True"
"""The remedy for files that are not on this machine."""

SHAPE_ADVICE = "load with image_shape=(channels, height, width), to which all images are resized"
"""The remedy for images of different sizes."""

SIDES_ADVICE = "load with an image_shape whose sides are multiples of"
"""The remedy for sides that cannot be halved often enough; a number follows."""

SMALLER_ADVICE = "load with a smaller image_shape"
"""The remedy for patches that are larger than the photograph they are cut from."""

LEVELS = "levels="
"""The number of levels of a model; the number follows."""

PER_CLASS = "per_class="
"""The number of images per class; the number follows."""

ALL_IMAGES_ADVICE = "load without per_class"
"""The remedy for a number of images per class where a class has no images."""

WEIGHTS_ADVICE = "weights=FILE"
"""The file of an encoder's weights."""

ENCODER_ADVICE = f"open it with download=True or with {WEIGHTS_ADVICE}"
"""The remedy for weights of an encoder that are not on this machine."""


class UserError(Exception):
    """An error that the user can put right.

    A program shows the message, one sentence, in place of a traceback, and exits with `exit_code`.

    Args:
        problem: what was wrong, with the value that was wrong.
        remedy: what to do about it, a clause in the imperative; empty only if `problem` is the complete message of
            another error.
        code: the name of this kind of error, such as "run-not-found", for scripts and tests.

    Attributes:
        exit_code: the exit status of a program that ends with this error: 1 if something failed, 2 if the request
            itself is wrong.
        problem: the argument `problem`.
        remedy: the argument `remedy`.
        code: the argument `code`.

    Examples:
        >>> error = UserError("a.png is 7x9", remedy="crop it to 8x8", code="image-shape")
        >>> str(error), error.code
        ('a.png is 7x9: crop it to 8x8', 'image-shape')
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, problem: str, *, remedy: str = "", code: str = "") -> None:
        super().__init__(f"{problem}: {remedy}" if remedy else problem)
        self.problem, self.remedy, self.code = problem, remedy, code


class CheckpointError(UserError):
    """A checkpoint cannot be written, or is missing, damaged, or of another model.

    Attributes:
        code: "checkpoint-unwritable", "checkpoint-missing", "checkpoint-damaged", "checkpoint-of-another-model" or
            "training-state-missing".

    Examples:
        >>> from glow import load_checkpoint
        >>> try:
        ...     load_checkpoint("no/such/folder")
        ... except CheckpointError as error:
        ...     print(error.code)
        checkpoint-missing
    """


class TrainingDiverged(UserError, RuntimeError):
    """The gradient was not finite in many consecutive steps; the message says which settings may help.

    Examples:
        >>> try:
        ...     raise TrainingDiverged("training diverged", remedy="use a lower learning rate")
        ... except RuntimeError as error:
        ...     print(error)
        training diverged: use a lower learning rate
    """
