"""Checkpoints: folders with a model and, while it is trained, the state of its training.

A model is two files, the weights in `WEIGHTS_FILE` (safetensors) and the config in `CONFIG_FILE` (JSON), which can be
read without pickle. A third file, `STATE_FILE`, contains the state from which training continues: the optimizer and the
counters. The model does not need this file. If training keeps a moving average of the weights, `WEIGHTS_FILE` contains
the averaged weights, and `STATE_FILE` also contains the weights that the optimizer changes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from glow.config import GlowConfig
from glow.errors import CheckpointError
from glow.model import Glow

WEIGHTS_FILE = "model.safetensors"
"""Name of the file with parameters and buffers, by their names in `Glow.state_dict`."""

CONFIG_FILE = "config.json"
"""Name of the file with the fields of the `GlowConfig`."""

STATE_FILE = "training_state.pt"
"""Name of the file with the state of the training, written by `torch.save`."""

UNWRITABLE = "checkpoint-unwritable"
"""The code of the error of a checkpoint that cannot be written, as on a full disk."""


def save_checkpoint(model: Glow, folder: str | Path) -> Path:
    """Write the weights and the config of a model into a folder.

    Args:
        model: the model, on any device.
        folder: made if it does not exist. Files of an earlier checkpoint in it are replaced.

    Returns:
        The folder.

    Raises:
        CheckpointError: if the files cannot be written, as on a full disk.

    Examples:
        >>> import tempfile
        >>> model = Glow(GlowConfig(image_shape=(1, 4, 4), levels=1, depth=1, width=4))
        >>> with tempfile.TemporaryDirectory() as scratch:
        ...     folder = save_checkpoint(model, scratch)
        ...     print(sorted(file.name for file in folder.iterdir()))
        ...     print(load_checkpoint(folder).config == model.config)
        ['config.json', 'model.safetensors']
        True
    """
    folder = Path(folder)
    with _written(folder):
        folder.mkdir(parents=True, exist_ok=True)
        save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, folder / WEIGHTS_FILE)
        (folder / CONFIG_FILE).write_text(json.dumps(model.config.to_dict(), indent=2) + "\n")
    return folder


def load_checkpoint(folder: str | Path, device: str | torch.device = "cpu") -> Glow:
    """Load the model that `save_checkpoint` or `glow.training.trainer.Trainer.save` wrote.

    Args:
        folder: the checkpoint.
        device: where the model will be.

    Returns:
        The model, with float32 weights.

    Raises:
        CheckpointError: if files are missing or damaged, or the weights do not fit the config.

    Examples:
        >>> import tempfile
        >>> model = Glow(GlowConfig(image_shape=(1, 4, 4), levels=1, depth=1, width=4))
        >>> image, noise = torch.zeros(1, 1, 4, 4, dtype=torch.uint8), torch.full((1, 1, 4, 4), 0.5)
        >>> with tempfile.TemporaryDirectory() as scratch:
        ...     loaded = load_checkpoint(save_checkpoint(model, scratch))
        >>> bool(loaded.log_prob(image, noise_BCHW=noise) == model.log_prob(image, noise_BCHW=noise))
        True
    """
    folder = Path(folder)
    try:
        config = GlowConfig.from_dict(json.loads((folder / CONFIG_FILE).read_text()))
    except FileNotFoundError:
        raise _missing(folder, CONFIG_FILE) from None
    except (ValueError, TypeError) as error:
        raise _unusable(f"{folder / CONFIG_FILE} is not the config of a Glow ({error})") from None
    model = Glow(config)
    load_weights(model, folder)
    return model.to(device)


def load_weights(model: Glow, folder: str | Path) -> None:
    """Load the weights of a checkpoint into a model, in place.

    Args:
        model: a model of the config that the weights were saved with, on any device.
        folder: the checkpoint; its config is not read.

    Raises:
        CheckpointError: if the weights are missing, damaged, or do not fit the model.

    Examples:
        >>> import tempfile
        >>> first, second = (Glow(GlowConfig((1, 4, 4), levels=1, depth=1, width=4, seed=seed)) for seed in (1, 2))
        >>> with tempfile.TemporaryDirectory() as scratch:
        ...     load_weights(second, save_checkpoint(first, scratch))
        >>> all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
        True
    """
    path = Path(folder) / WEIGHTS_FILE
    try:
        weights = load_file(path)
    except FileNotFoundError:
        raise _missing(folder, WEIGHTS_FILE) from None
    except SafetensorError as error:
        raise _unusable(f"{path} is damaged ({error})") from None
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        first = str(error).splitlines()[-1].strip()
        problem = f"the weights in {path} do not fit the model's config ({first})"
        raise _unusable(problem, "checkpoint-of-another-model") from None


def save_training_state(state: dict[str, Any], folder: str | Path) -> None:
    """Write the state of a training into the folder of a checkpoint.

    Args:
        state: tensors, numbers and strings in dicts and lists, as `glow.training.trainer.Trainer.save` collects them.
        folder: an existing folder.

    Raises:
        CheckpointError: if the file cannot be written.

    Examples:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_training_state({"epoch": 3}, folder)
        ...     print(load_training_state(folder))
        {'epoch': 3}
    """
    with _written(Path(folder)):
        torch.save(state, Path(folder) / STATE_FILE)


@contextmanager
def _written(folder: Path) -> Iterator[None]:
    """Turn the errors of all writers into one kind: OSError, SafetensorError, and torch's RuntimeError."""
    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(
            f"the checkpoint {folder} cannot be written ({reason})",
            remedy="free some space if the disk is full, or write to another folder",
            code=UNWRITABLE,
        ) from error


def _unusable(problem: str, code: str = "checkpoint-damaged") -> CheckpointError:
    return CheckpointError(problem, remedy="use another checkpoint", code=code)


def _missing(folder: str | Path, file: str) -> CheckpointError:
    return CheckpointError(
        f"there is no checkpoint in {folder} ({file} is missing)",
        remedy=f"use a folder that contains {CONFIG_FILE} and {WEIGHTS_FILE}",
        code="checkpoint-missing",
    )


def load_training_state(folder: str | Path) -> dict[str, Any]:
    """Load the state that `save_training_state` wrote, with its tensors on the CPU.

    Args:
        folder: the checkpoint.

    Returns:
        The state.

    Raises:
        CheckpointError: if the file is missing or damaged.

    Examples:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_training_state({"weights": torch.ones(3)}, folder)
        ...     print(load_training_state(folder)["weights"])
        tensor([1., 1., 1.])
    """
    path = Path(folder) / STATE_FILE
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(
            f"{folder} does not contain the state of a training ({STATE_FILE} is missing)",
            remedy="use another checkpoint, or start a new training",
            code="training-state-missing",
        ) from None
    except Exception as error:  # torch and its unpickler raise many types, depending on where the damage is
        raise _unusable(f"{path} is damaged ({type(error).__name__})") from None


def digest_of(folder: Path) -> str:
    """Compute a digest of a checkpoint's config and weights, which identifies the model.

    Args:
        folder: the checkpoint.

    Returns:
        The first 16 hexadecimal digits of the SHA-256 of both files.

    Raises:
        FileNotFoundError: if one of them is missing.

    Examples:
        >>> import tempfile
        >>> digests = set()
        >>> for bits in (5, 8, 8):
        ...     with tempfile.TemporaryDirectory() as scratch:
        ...         model = Glow(GlowConfig((1, 4, 4), levels=1, depth=1, width=4, bits=bits))
        ...         digests.add(digest_of(save_checkpoint(model, scratch)))
        >>> len(digests)
        2
    """
    digest = hashlib.sha256()
    for file in (CONFIG_FILE, WEIGHTS_FILE):
        digest.update((folder / file).read_bytes())
    return digest.hexdigest()[:16]
