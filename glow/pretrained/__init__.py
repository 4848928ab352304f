"""The models that come with this package.

Each is a folder here: weights and configuration, the scores by which the model judges images, the settings of its
training, and a card, README.md, with its likelihoods, its limits and the licence of its data.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from glow.errors import CheckpointError

if TYPE_CHECKING:
    from glow.model import Glow

NAMES = tuple(sorted(path.parent.name for path in Path(__file__).parent.glob("*/README.md")))
"""The names of the models."""


def pretrained_folder(name: str) -> Path:
    """Return the folder of a model that comes with this package.

    Raises:
        CheckpointError: if there is none of this name.

    Examples:
        >>> pretrained_folder("mnist").name
        'mnist'
    """
    if name not in NAMES:
        raise CheckpointError(
            f"there is no pretrained model {name!r}",
            remedy=f"choose one of {', '.join(NAMES)}",
            code="pretrained-unknown",
        )
    return Path(__file__).parent / name


def load_pretrained(name: str) -> Glow:
    """Return a model that comes with this package, such as "mnist", in evaluation mode.

    Raises:
        CheckpointError: if there is none of this name.

    Examples:
        >>> load_pretrained("mnist").config.image_shape
        (1, 32, 32)
    """
    from glow.checkpoint import load_checkpoint

    return load_checkpoint(pretrained_folder(name)).eval()
