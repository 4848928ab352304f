"""Frozen image networks ("encoders"), whose features tell what an image shows.

The likelihood of a flow depends on the texture of an image more than on its content. A network that was trained to
recognize objects sees the content. `open_encoder` opens such a network by name, with weights that are on this machine,
and `Encoder.features` applies it. `glow.features` compares the features of images with those of training images.

Shapes: N images, C channels, H rows, W columns, D features.
"""

from __future__ import annotations

import hashlib
import importlib
import io
import json
import warnings
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from glow.errors import ENCODER_ADVICE, WEIGHTS_ADVICE, UserError
from glow.hardware import without_tf32

KINDS = ("timm", "torchvision", "file")
"""What the name of an encoder starts with, before a colon."""

PREPROCESSING_FILE = "preprocessing.json"
"""The entry of a TorchScript or torch.export file that contains `input_size`, `mean`, `std` and `interpolation`."""

IMAGENET: dict[str, Any] = {
    "input_size": (3, 224, 224),
    "mean": (0.485, 0.456, 0.406),
    "std": (0.229, 0.224, 0.225),
    "interpolation": "bilinear",
}
"""What a file without `PREPROCESSING_FILE` means, in the words of timm."""

BATCH_SIZE = 32
"""Images per forward pass: on a CPU, more are slower."""


class EncoderError(UserError):
    """An encoder cannot be opened, or does not take the images.

    Attributes:
        code: "encoder-unknown", "encoder-library-missing", "encoder-weights-missing", "encoder-unreadable" or
            "encoder-unfit".

    Examples:
        >>> try:
        ...     open_encoder("file:no/such/network.pt")
        ... except EncoderError as error:
        ...     print(error.code)
        encoder-unreadable
    """


@dataclass(frozen=True)
class Encoder:
    """A frozen network, and how images are prepared for it. It can be pickled.

    Attributes:
        name: the name that `open_encoder` took.
        size: height and width that images are resized to.
        mean: the mean that is subtracted from each channel of an image with values from 0 to 1.
        deviation: what each channel is then divided by.
        interpolation: how images are resized, "bilinear" or "bicubic"; always antialiased, and without a crop.
        network: the network, or the content of its file.
        digest: 16 hex digits that identify the weights and all of the above.
        about: where the weights are from, and their licence if the library states one.

    Examples:
        >>> flat = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        >>> encoder = Encoder("average", (8, 8), (0, 0, 0), (1, 1, 1), "bilinear", flat, "0" * 16)
        >>> encoder.features(torch.full((2, 1, 4, 4), 255, dtype=torch.uint8)).tolist()
        [[1.0, 1.0, 1.0], [1.0, 1.0, 1.0]]
    """

    name: str
    size: tuple[int, int]
    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    interpolation: str
    network: nn.Module | bytes
    digest: str
    about: str = ""

    def features(self, images_NCHW: Tensor, device: str = "cpu", batch_size: int = BATCH_SIZE) -> np.ndarray:
        """Compute the features of images. Grey images become three equal channels.

        Args:
            images_NCHW: uint8 (N, C, H, W), where C is 1 or 3.
            device: where to compute.
            batch_size: images per forward pass, which bounds the memory in use.

        Returns:
            float16 (N, D).

        Raises:
            EncoderError: if the network does not take the images, or does not return one row per image.
        """
        network = self._loaded().to(device)
        with torch.inference_mode(), without_tf32():
            parts = [self._of_batch(network, batch.to(device)) for batch in images_NCHW.split(batch_size)]
        return np.concatenate(parts)

    def _of_batch(self, network: nn.Module, images_BCHW: Tensor) -> np.ndarray:
        try:
            # CPUs compute depthwise convolutions faster if the channels of a pixel are neighbours in memory.
            features_BD = network(self.prepared(images_BCHW).contiguous(memory_format=torch.channels_last))
            shape = tuple(features_BD.shape)
        except (RuntimeError, AssertionError, ValueError, TypeError, AttributeError) as error:
            raise _unfit(self.name, f"does not take the images ({str(error).splitlines()[0]})") from error
        if len(shape) != 2 or shape[0] != len(images_BCHW):
            raise _unfit(self.name, f"returns {shape} for {len(images_BCHW)} images in place of one row per image")
        return features_BD.half().cpu().numpy()

    def prepared(self, images_BCHW: Tensor) -> Tensor:
        """Return images as the network takes them, float32 (B, 3, H, W)."""
        if images_BCHW.shape[1] not in (1, 3):
            raise _unfit(self.name, f"takes images of 1 or 3 channels, not {images_BCHW.shape[1]}")
        shares = images_BCHW.float() / 255
        if shares.shape[-2:] != self.size:
            shares = F.interpolate(shares, self.size, mode=self.interpolation, antialias=True).clamp(0, 1)
        mean, deviation = (shares.new_tensor(each)[:, None, None] for each in (self.mean, self.deviation))
        return (shares.expand(-1, 3, -1, -1) - mean) / deviation

    def _loaded(self) -> nn.Module:
        if isinstance(self.network, bytes):
            return _network_in(self.network)
        return self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def __str__(self) -> str:
        height, width = self.size
        how = f"images resized to {height}x{width} ({self.interpolation}), mean {self.mean}, deviation {self.deviation}"
        return ", ".join(filter(None, [f"{self.name} (digest {self.digest})", self.about, how]))


def open_encoder(name: str, weights: str | None = None, size: int | None = None, download: bool = False) -> Encoder:
    """Open an encoder by name.

    Args:
        name: ``timm:NAME`` or ``torchvision:NAME`` for a network of a library, which also states size, mean and
            deviation; ``file:PATH`` for a file of TorchScript or torch.export, whose entry
            `PREPROCESSING_FILE` states them, or else they are `IMAGENET`.
        weights: file with the weights of a library's network; None for those in the library's cache.
        size: height and width that images are resized to; None for what the library or the file states.
        download: whether to download weights that are missing in the library's cache.

    Returns:
        The encoder, after a trial with a black image.

    Raises:
        EncoderError: if the library, the network or the weights are missing, or the trial fails.

    Examples:
        >>> import tempfile
        >>> flat = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     torch.export.save(torch.export.export(flat, (torch.zeros(1, 3, 8, 8),)), f"{folder}/flat.pt2")
        ...     encoder = open_encoder(f"file:{folder}/flat.pt2", size=8)
        >>> encoder.size, encoder.features(torch.zeros(1, 3, 4, 4, dtype=torch.uint8)).shape
        ((8, 8), (1, 3))
    """
    kind, _, called = name.partition(":")
    if kind not in KINDS or not called:
        raise EncoderError(
            f"there is no encoder {name!r}",
            remedy="use timm:NAME, torchvision:NAME or file:PATH",
            code="encoder-unknown",
        )
    network: nn.Module | bytes
    opened: Callable[..., Any] = {"timm": _of_timm, "torchvision": _of_torchvision, "file": _of_file}[kind]
    network, stated, about = opened(called, weights, size, download)
    height, width = (size, size) if size else stated["input_size"][-2:]
    mean, deviation = (tuple(map(float, stated[each])) for each in ("mean", "std"))
    interpolation = "bicubic" if stated["interpolation"] == "bicubic" else "bilinear"
    encoder = Encoder(name, (height, width), mean, deviation, interpolation, network, "", about)
    encoder.features(torch.zeros(1, 3, height, width, dtype=torch.uint8))
    return replace(encoder, digest=_digest(encoder))


def _of_timm(name: str, weights: str | None, size: int | None, download: bool) -> tuple[nn.Module, dict[str, Any], str]:
    timm = _library("timm")
    stated = timm.get_pretrained_cfg(name) if timm.is_model(name) else None
    if stated is None:
        raise _unknown("timm", name, "python -c 'import timm; print(timm.list_models())'")
    file = weights or _cached_by_timm(stated)
    if file is None and not download:
        raise _no_weights(f"timm:{name}")
    overlay = None if file is None else {"file": file}
    sized = {"img_size": size} if size and stated.fixed_input_size else {}

    def build() -> nn.Module:
        network: Any = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay, **sized)
        network.reset_classifier(0)  # num_classes=0 would accept weights of another network
        return network

    return _built(f"timm:{name}", file, build), stated.to_dict(), _about(weights, stated.license)


def _cached_by_timm(stated: Any) -> str | None:
    """Return the file of the weights in the cache of Hugging Face or torch, if timm has downloaded them before."""
    hub = _library("huggingface_hub")
    if stated.hf_hub_id:
        names = [stated.hf_hub_filename] if stated.hf_hub_filename else ["model.safetensors", "pytorch_model.bin"]
        found = [hub.try_to_load_from_cache(stated.hf_hub_id, each) for each in names]
        if files := [each for each in found if isinstance(each, str)]:
            return files[0]
    return _cached_by_torch(stated.url) if isinstance(stated.url, str) else None


def _of_torchvision(
    name: str, weights: str | None, size: int | None, download: bool
) -> tuple[nn.Module, dict[str, Any], str]:
    models = importlib.import_module("torchvision.models")
    if name not in models.list_models(module=models):
        raise _unknown("torchvision", name, "python -c 'import torchvision.models as m; print(m.list_models(m))'")
    known = models.get_model_weights(name).DEFAULT
    how = known.transforms()
    stated = {
        "input_size": how.crop_size * 2,
        "mean": how.mean,
        "std": how.std,
        "interpolation": how.interpolation.value,
    }
    file = weights or _cached_by_torch(known.url)
    if file is None and not download:
        raise _no_weights(f"torchvision:{name}")

    def build() -> nn.Module:
        network: nn.Module = models.get_model(name, weights=None)
        values = known.get_state_dict(progress=False, check_hash=True) if file is None else _read_weights(file)
        network.load_state_dict(values)
        return _without_head(network, f"torchvision:{name}", len(known.meta["categories"]))

    return _built(f"torchvision:{name}", file, build), stated, _about(weights, None)


def _without_head(network: nn.Module, name: str, classes: int) -> nn.Module:
    """Replace the last linear layer, which computes the classes, by the identity."""
    linear = [path for path, module in network.named_modules() if isinstance(module, nn.Linear)]
    if not linear or network.get_submodule(linear[-1]).out_features != classes:
        raise _unfit(name, "has no linear layer that computes its classes last")
    parent, _, last = linear[-1].rpartition(".")
    setattr(network.get_submodule(parent), last, nn.Identity())
    return network


def _of_file(path: str, weights: str | None, size: int | None, download: bool) -> tuple[bytes, dict[str, Any], str]:
    if weights is not None:
        raise EncoderError(
            f"file:{path} contains its weights", remedy=f"leave out {WEIGHTS_ADVICE}", code="encoder-unfit"
        )
    try:
        content = Path(path).expanduser().read_bytes()
    except OSError as error:
        raise _unreadable(f"file:{path}", error.strerror or str(error)) from error
    extra = {PREPROCESSING_FILE: ""}
    _network_in(content, extra, f"file:{path}")
    try:
        stated = json.loads(extra[PREPROCESSING_FILE] or "{}")
        return content, IMAGENET | {key: stated[key] for key in IMAGENET.keys() & stated.keys()}, ""
    except (ValueError, AttributeError) as error:
        raise _unreadable(f"file:{path}", f"{PREPROCESSING_FILE} is not a JSON object") from error


def _network_in(content: bytes, extra: dict[str, Any] | None = None, name: str = "the file") -> nn.Module:
    """Read a network of torch.export or TorchScript, and the entries of its file that `extra` names."""
    extra = {} if extra is None else extra
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated, but files of it are still around
        try:
            if any(entry.endswith("/archive_format") for entry in zipfile.ZipFile(io.BytesIO(content)).namelist()):
                return torch.export.load(io.BytesIO(content), extra_files=extra).module()
            return torch.jit.load(io.BytesIO(content), "cpu", extra).eval()
        except Exception as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise _unreadable(name, f"not a file of TorchScript or torch.export ({reason})") from error


def _built(name: str, file: str | None, build: Callable[[], nn.Module]) -> nn.Module:
    try:
        network: nn.Module = build()
    except EncoderError:
        raise
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise _unreadable(name, f"its weights{f' in {file}' if file else ''} cannot be loaded: {reason}") from error
    return network.eval().requires_grad_(False)


def _read_weights(file: str) -> Mapping[str, Tensor]:
    if file.endswith(".safetensors"):
        from safetensors.torch import load_file

        return load_file(file)
    values: Mapping[str, Tensor] = torch.load(file, map_location="cpu", weights_only=True)
    return values


def _cached_by_torch(url: str) -> str | None:
    file = Path(torch.hub.get_dir(), "checkpoints", url.rpartition("/")[2])
    return str(file) if file.is_file() else None


def _digest(encoder: Encoder) -> str:
    digest = hashlib.sha256(repr(replace(encoder, network=b"", about="", digest="", name="")).encode())
    if isinstance(encoder.network, bytes):
        digest.update(encoder.network)
    else:
        digest.update(encoder.name.encode())  # the architecture
        for key, value in encoder.network.state_dict().items():
            digest.update(f"{key} {tuple(value.shape)} {value.dtype}".encode())
            digest.update(value.contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


def _about(weights: str | None, licence: str | None) -> str:
    origin = f"weights {Path(weights).name}" if weights else "weights of the library"
    return f"{origin}, licence {licence}" if licence and not weights else origin


def _library(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise EncoderError(
            f"an encoder of timm needs the package {name}",
            remedy="install it with pip install 'glowctl[encoder]'",
            code="encoder-library-missing",
        ) from error


def _unknown(library: str, name: str, lists: str) -> EncoderError:
    return EncoderError(f"{library} has no network {name!r}", remedy=f"list them by {lists}", code="encoder-unknown")


def _no_weights(name: str) -> EncoderError:
    return EncoderError(
        f"the weights of {name} are not on this machine", remedy=ENCODER_ADVICE, code="encoder-weights-missing"
    )


def _unreadable(name: str, reason: str) -> EncoderError:
    return EncoderError(
        f"{name} cannot be read ({reason})", remedy="name another file or network", code="encoder-unreadable"
    )


def _unfit(name: str, reason: str) -> EncoderError:
    return EncoderError(f"{name} {reason}", remedy="use another encoder", code="encoder-unfit")
