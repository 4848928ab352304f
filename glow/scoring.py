"""Images -> a score table: one row an image, of which every statistic is arithmetic.

Columns of a score table:

- ``index``: int64, the image's position in its data set's split; it settles the image's dequantisation noise
- ``label``: int64
- ``nll``: negative log-likelihood in nats; ``bits_per_dim``: the same in bits, divided by C * H * W
- ``log_det`` and ``log_prior_1`` ... ``log_prior_L``: what the NLL is made of, in nats of real-valued images: the
  log-det of the flow, and log p(z) of each level, the top one last
- ``log_det_1`` ... ``log_det_L``: the log-det of each level's steps. What ``log_det`` has besides them is of the
  dequantisation and of the input's transform
- ``latent_anderson``, ``latent_spectrum`` and ``latent_neighbours``: how far the latents of all levels together are
  from noise (`glow.latent_statistics`); ``latent_power_1`` ... ``latent_power_L``, ``latent_rows_1`` ... and
  ``latent_columns_1`` ...: the mean square of each level's, and how their neighbours in rows and columns correlate
- ``finite``: whether the likelihood and all that it is made of are finite
- ``complexity``: bits of the image as a PNG, less those of a black image; of the image as the model sees it, which a
  model of fewer than 8 bits does not see whole
- ``nll_of_all`` and ``nll_bound``, in a table of K > 1 noise samples: the mean of their K negative log-likelihoods, and
  the importance-weighted bound of all together (`importance_weighted`)

Shapes: N images, B in a batch, L levels, K noise samples.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sized
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import Tensor

from glow.datasets.lazy import LazyDataset
from glow.dequantization import reduced, uniform_noise
from glow.latent_statistics import anderson_darling, second_moments, spectrum_variation
from glow.model import Glow, Precision

__all__ = ["SCORED", "SHARD", "complexity", "importance_weighted", "score", "score_shard", "shards_of"]

BATCH_SIZE = 250

MOMENTS = ("power", "rows", "columns")

MOST_NOISE_SAMPLES = 1000
"""Each has a stream of its own."""


@torch.no_grad()
def score(
    model: Glow,
    images_NCHW: Tensor,
    labels_N: Tensor | None = None,
    *,
    indices_N: Tensor | None = None,
    seed: int = 0,
    precision: Precision = "float32",
    noise_samples: int = 1,
    batch_size: int = BATCH_SIZE,
) -> pd.DataFrame:
    """The score table of uint8 images under a model: a forward pass per image and noise sample, in `batch_size` images
    of memory.

    An image's scores do not depend on the others, their order or the batch size. In float32 the NLL is within 1e-5,
    relative, of that of a float64 model; in bf16 the coupling networks are rounded to 8 bits, which moves single images
    by up to about 0.02 bits/dim.

    Args:
        labels_N: int64 for the table; zero if None. A class-conditional model is asked for log p(x) all the same.
        indices_N: int64 positions in the data set; 0 to N - 1 if None.
        seed: of the dequantisation noise.
        precision: of the coupling networks; the model is left with it.
        noise_samples: K. All columns but the last two are of the first one alone.

    Raises:
        ValueError: for images of another type or shape than the model's, or too few or too many noise samples.
    """
    if not 1 <= noise_samples <= MOST_NOISE_SAMPLES:
        raise ValueError(f"noise_samples must be between 1 and {MOST_NOISE_SAMPLES}, not {noise_samples}")
    n = len(images_NCHW)
    indices_N = torch.arange(n) if indices_N is None else indices_N
    labels_N = torch.zeros(n, dtype=torch.int64) if labels_N is None else labels_N
    model.set_precision(precision)
    parts, sums = [], []
    # On GPUs convolutions would otherwise round to TF32, 10 bits.
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=precision == "bf16"):
        for start in range(0, n, batch_size):
            images_BCHW = images_NCHW[start : start + batch_size].to(model.device)
            indices_B = indices_N[start : start + batch_size].to(model.device)
            samples = [_Terms.of(model, images_BCHW, indices_B, _stream(seed, k)) for k in range(noise_samples)]
            parts.append(samples[0])
            sums.append(np.stack([sample.likelihood.sum(1) for sample in samples], 1))
    parts = parts or [_Terms.none(model.config.levels)]
    likelihood, latents = (
        np.concatenate([getattr(part, name) for part in parts]) for name in ("likelihood", "latents")
    )
    sums_NK = np.concatenate(sums) if sums else np.empty((0, noise_samples))
    dimensions, levels = model.config.dimensions, model.config.levels
    with np.errstate(invalid="ignore"):
        nll_NK = dimensions * math.log(model.config.bins) - sums_NK
    nll = nll_NK[:, 0]
    table = pd.DataFrame(
        {
            "index": indices_N.cpu().numpy(),
            "label": labels_N.cpu().numpy(),
            "nll": nll,
            "bits_per_dim": nll / (dimensions * math.log(2)),
            "log_det": likelihood[:, : 1 + levels].sum(1),
            **{f"log_prior_{level}": likelihood[:, levels + level] for level in range(1, 1 + levels)},
            **{f"log_det_{level}": likelihood[:, level] for level in range(1, 1 + levels)},
            **dict(zip(latent_columns(levels), latents.T, strict=True)),
            "finite": np.isfinite(likelihood).all(1),
            "complexity": complexity(reduced(images_NCHW, model.config.bits)),
        }
    )
    if noise_samples > 1:
        table["nll_of_all"], table["nll_bound"] = nll_NK.mean(1), importance_weighted(nll_NK)
    return table


@dataclass(frozen=True)
class _Terms:
    """What images score under one noise, float64: `likelihood` (B, 1 + L + L) has the log-det of the input, of each
    level, and log p(z) of each; `latents` has the statistics of their latents."""

    likelihood: np.ndarray
    latents: np.ndarray

    @classmethod
    def of(cls, model: Glow, images_BCHW: Tensor, indices_B: Tensor, stream: int) -> _Terms:
        noise_BCHW = uniform_noise(indices_B, model.config.image_shape, stream)
        terms = model.log_prob_terms(images_BCHW, noise_BCHW=noise_BCHW)
        likelihood = torch.cat([terms.input_log_det_B[:, None], terms.log_det_BL, terms.log_prior_BL], 1)
        standardized_BD = torch.cat([level.flatten(1) for level in terms.standardized], 1)
        moments = second_moments(terms.standardized)
        latents = torch.column_stack(
            [
                anderson_darling(standardized_BD),
                spectrum_variation(standardized_BD),
                moments.portmanteau(),
                moments.power_BL,
                moments.rows_BL,
                moments.columns_BL,
            ]
        )
        return cls(likelihood.double().cpu().numpy(), latents.cpu().numpy())

    @classmethod
    def none(cls, levels: int) -> _Terms:
        return cls(np.empty((0, 1 + 2 * levels)), np.empty((0, len(latent_columns(levels)))))


def latent_columns(levels: int) -> list[str]:
    """The columns of a score table that are of the latents."""
    by_level = [f"latent_{name}_{level}" for name in MOMENTS for level in range(1, levels + 1)]
    return ["latent_anderson", "latent_spectrum", "latent_neighbours", *by_level]


def _stream(seed: int, sample: int) -> int:
    """The stream of a noise sample: the first is the seed itself. Those of trainings and of other seeds lie below
    2**52."""
    return seed + (sample << 52)


def importance_weighted(nll_NK: np.ndarray) -> np.ndarray:
    r"""The bound :math:`-\log \frac1K \sum_k e^{-\mathrm{nll}_k}` (N,) on -log P(image) of K noise samples each.

    From Burda et al. (2016), equation 8, with the noise for the latent variable. In expectation it falls as K grows,
    towards -log P(image) itself; with K = 1 it is the negative log-likelihood under one noise sample.
    """
    return -(np.logaddexp.reduce(-nll_NK, axis=1) - math.log(nll_NK.shape[1]))


def complexity(images_NCHW: Tensor) -> np.ndarray:
    """Bits (N,) of each uint8 image under a lossless codec (Serrà et al. 2020, section 3), here PNG.

    What a PNG of this size costs before it says anything, the bits of a black one, is not counted.
    """
    if len(images_NCHW) == 0:
        return np.empty(0)
    arrays = images_NCHW.permute(0, 2, 3, 1).cpu().numpy()
    floor = _png_bits(np.zeros_like(arrays[0]))
    return np.array([_png_bits(array) - floor for array in arrays], float)


def _png_bits(image_HWC: np.ndarray) -> int:
    buffer = io.BytesIO()
    Image.fromarray(image_HWC.squeeze(-1) if image_HWC.shape[-1] == 1 else image_HWC).save(buffer, "png", optimize=True)
    return 8 * len(buffer.getvalue())


SHARD = 1000
"""Images."""

SCORED = ("train", "validation")
"""Splits whose scores a finished training leaves with its model: thresholds for batches of any size come of them."""


def shards_of(splits: Mapping[str, Sized]) -> list[tuple[str, int]]:
    """The split and the first image of every shard of `SCORED`."""
    return [(split, start) for split in SCORED for start in range(0, len(splits[split]), SHARD)]


def score_shard(model: Glow, images: LazyDataset, start: int) -> pd.DataFrame:
    """The score table of the shard of a split that begins at `start`, in float32, to which the model is set."""
    stop = min(start + SHARD, len(images))
    return score(model, images.images(start, stop), images.labels[start:stop], indices_N=torch.arange(start, stop))
