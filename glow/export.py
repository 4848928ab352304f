"""Export a model's log-likelihood as one file that runs without this package: ONNX, or a program of `torch.export`."""

from __future__ import annotations

import os
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from glow.errors import CheckpointError, UserError

if TYPE_CHECKING:
    from torch import Tensor

    from glow.model import Glow

ONNX, TORCH = SUFFIXES = (".onnx", ".pt2")
"""The formats, by the suffix of the file."""


class ExportRefused(UserError):
    """A model cannot be exported to this file.

    Attributes:
        code: "export-format", "export-not-writable" or "package-missing".

    Examples:
        >>> from glow import load_pretrained
        >>> try:
        ...     export(load_pretrained("mnist"), Path("mnist.tflite"))
        ... except ExportRefused as error:
        ...     print(error.code)
        export-format
    """

    exit_code = 2


class _LogProb(torch.nn.Module):
    def __init__(self, model: Glow) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor, noise: Tensor) -> Tensor:
        return self.model.log_prob(images, noise_BCHW=noise)


def export(model: Glow, file: Path) -> None:
    """Write the log-likelihood of a batch of images as a program without Python code of ours.

    The program has two inputs, `images` uint8 (B, C, H, W) and `noise` float32 (B, C, H, W) in [0, 1), and one output,
    `log_prob` float32 (B,) in nats, as `Glow.log_prob` returns it. B is any number from 1 on. Equal noise gives equal
    likelihoods; `glow.uniform_noise` makes the noise by which glowctl scores.

    Args:
        model: a trained model; it is left in evaluation mode.
        file: a new file. ``.onnx`` is for onnxruntime and needs the packages onnx and onnxscript; ``.pt2`` is for
            `torch.export.load`.

    Raises:
        ExportRefused: if the name of the file ends in neither suffix, it cannot be written, or a package is missing.
        CheckpointError: if the model was never trained.

    Examples:
        >>> import tempfile
        >>> from glow import Glow, GlowConfig, uniform_noise
        >>> model = Glow(GlowConfig(image_shape=(1, 8, 8), levels=1, depth=2, width=8))
        >>> images, noise = torch.zeros(3, 1, 8, 8, dtype=torch.uint8), uniform_noise(torch.arange(3), (1, 8, 8))
        >>> model.initialize(images, noise)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     export(model, Path(folder) / "digits.pt2")
        ...     log_prob = torch.export.load(Path(folder) / "digits.pt2").module()
        >>> log_prob(images, noise).shape
        torch.Size([3])
    """
    _check(model, file)
    images = torch.zeros(2, *model.config.image_shape, dtype=torch.uint8)
    batch = {0: torch.export.Dim("batch", min=1)}
    with torch.no_grad():
        program = torch.export.export(
            _LogProb(model.eval()), (images, torch.zeros(images.shape)), dynamic_shapes=(batch, batch)
        )
    if file.suffix == TORCH:
        torch.export.save(program, file)
    else:
        program = program.run_decompositions({torch.ops.aten.special_ndtri.default: _normal_quantile})
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch, about torch
            torch.onnx.export(
                program, (), file, output_names=["log_prob"], dynamo=True, external_data=False, verbose=False
            )


def _check(model: Glow, file: Path) -> None:
    if file.suffix not in SUFFIXES:
        raise ExportRefused(
            f"the name {str(file)!r} says no format of an export",
            remedy=f"end it in {' or '.join(SUFFIXES)}",
            code="export-format",
        )
    if file.is_dir() or not os.access(file.parent, os.W_OK):
        raise ExportRefused(
            f"{file} cannot be written",
            remedy="name a file in a folder where you may write",
            code="export-not-writable",
        )
    if not model.initialized:
        raise CheckpointError("the model was never trained", remedy="export a trained one", code="model-untrained")
    if file.suffix == ONNX and not (find_spec("onnx") and find_spec("onnxscript")):
        raise ExportRefused(
            "an export to ONNX needs the packages onnx and onnxscript",
            remedy=f"install glowctl[onnx], or export to a {TORCH} file",
            code="package-missing",
        )


def _normal_quantile(p: Tensor) -> Tensor:
    """Compute the inverse of the normal distribution function, which ONNX lacks, for exp(-25) < p < 1 - exp(-25).

    Source: Wichura (1988), Algorithm AS 241, PPND7, without its branch for smaller p. Variational dequantization needs
    it for p from 2**-25 on. The relative error is 1e-7.
    """
    centre, tail = p - 0.5, torch.minimum(p, 1 - p).log().neg().sqrt() - 1.6
    r = 0.180625 - centre.square()
    inner = _polynomial(r, 59.109374720, 159.29113202, 50.434271938, 3.3871327179) * centre
    inner = inner / _polynomial(r, 67.187563600, 78.757757664, 17.895169469, 1.0)
    outer = _polynomial(tail, 0.17023821103, 1.3067284816, 2.7568153900, 1.4234372777)
    outer = outer / _polynomial(tail, 0.12021132975, 0.73700164250, 1.0)
    return torch.where(centre.abs() <= 0.425, inner, outer * centre.sign())


def _polynomial(x: Tensor, *coefficients: float) -> Tensor:
    value = torch.full_like(x, coefficients[0])
    for coefficient in coefficients[1:]:
        value = value * x + coefficient
    return value
