"""A model in a folder: weights in safetensors beside the config as JSON. No pickle is needed to read it.

What training needs to go on (optimizer, schedule, counters) lies apart, in `STATE_FILE`, and can be deleted.
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
from glow.errors import UserError
from glow.model import Glow

__all__ = [
    "CheckpointError",
    "digest_of",
    "load_checkpoint",
    "load_training_state",
    "load_weights",
    "save_checkpoint",
    "save_training_state",
]

WEIGHTS_FILE = "model.safetensors"
CONFIG_FILE = "config.json"
STATE_FILE = "training_state.pt"


class CheckpointError(UserError):
    """A checkpoint cannot be written, or is missing, damaged, or of another model; one sentence for the user."""


def save_checkpoint(model: Glow, folder: str | Path) -> Path:
    """Writes the weights and the config of `model` into `folder`, which is made if need be.

    Raises:
        CheckpointError: if it cannot be written, as on a full disk.
    """
    folder = Path(folder)
    with _written(folder):
        folder.mkdir(parents=True, exist_ok=True)
        save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, folder / WEIGHTS_FILE)
        (folder / CONFIG_FILE).write_text(json.dumps(model.config.to_dict(), indent=2) + "\n")
    return folder


def load_checkpoint(folder: str | Path, device: str | torch.device = "cpu") -> Glow:
    """The model that `save_checkpoint` wrote.

    Raises:
        CheckpointError: if files are missing or damaged, or the weights are not of the config's model.
    """
    folder = Path(folder)
    try:
        config = GlowConfig.from_dict(json.loads((folder / CONFIG_FILE).read_text()))
    except FileNotFoundError:
        raise CheckpointError(f"no checkpoint in {folder}: {CONFIG_FILE} is missing") from None
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"{folder / CONFIG_FILE} is not a Glow config: {error}") from None
    model = Glow(config)
    load_weights(model, folder)
    return model.to(device)


def load_weights(model: Glow, folder: str | Path) -> None:
    """Loads the weights in `folder` into `model`, in place. Raises CheckpointError as `load_checkpoint` does."""
    path = Path(folder) / WEIGHTS_FILE
    try:
        weights = load_file(path)
    except FileNotFoundError:
        raise CheckpointError(f"no checkpoint in {folder}: {WEIGHTS_FILE} is missing") from None
    except SafetensorError as error:
        raise CheckpointError(f"{path} is damaged ({error}): use another checkpoint") from None
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        first = str(error).splitlines()[-1].strip()
        raise CheckpointError(f"the weights in {path} are of another model than its config: {first}") from None


def save_training_state(state: dict[str, Any], folder: str | Path) -> None:
    """Writes what `Trainer` needs to go on: tensors, numbers and strings in dicts and lists.

    Raises CheckpointError as `save_checkpoint` does.
    """
    with _written(Path(folder)):
        torch.save(state, Path(folder) / STATE_FILE)


@contextmanager
def _written(folder: Path) -> Iterator[None]:
    """One error for what the three writers raise: OSError, SafetensorError, and torch's RuntimeError."""
    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(f"the checkpoint {folder} cannot be written ({reason}): is the disk full?") from error


def load_training_state(folder: str | Path) -> dict[str, Any]:
    """What `save_training_state` wrote, on the CPU. Raises CheckpointError if it is missing or damaged."""
    path = Path(folder) / STATE_FILE
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(
            f"{folder} holds a model but not the state of its training: {STATE_FILE} is missing"
        ) from None
    except Exception as error:  # torch raises whatever its unpickler met
        raise CheckpointError(f"{path} is damaged ({type(error).__name__}): use another checkpoint") from None


def digest_of(folder: Path) -> str:
    """16 hex digits of the weights and the config of a checkpoint."""
    digest = hashlib.sha256()
    for file in (CONFIG_FILE, WEIGHTS_FILE):
        digest.update((folder / file).read_bytes())
    return digest.hexdigest()[:16]
