"""Score tables: one row per image, from which all further statistics are computed without the model.

`score` makes a table from images in memory. `shards_of` divides splits of a data set into shards, and `score_shard`
makes the table of one shard, so that different workers can score different shards.

Columns of a score table:

- ``index``: int64, position of the image in its split. It determines the image's dequantisation noise.
- ``label``: int64, the class.
- ``nll``: negative log-likelihood in nats. ``bits_per_dim``: the same in bits, divided by C * H * W.
- ``log_det`` and ``log_prior_1`` ... ``log_prior_L``: the parts of the log-density of the dequantised image, in nats:
  the log-determinant of the flow, and log p(z) of each level, from the first to the top level.
  ``nll = D log(2 ** bits) - log_det - log_prior_1 - ... - log_prior_L``, where ``bits`` is `GlowConfig.bits` of the
  model.
- ``log_det_1`` ... ``log_det_L``: the log-determinant of each level's steps. The rest of ``log_det`` belongs to the
  dequantisation, the transform of the input and the checkerboard couplings.
- ``latent_anderson``, ``latent_spectrum`` and ``latent_neighbours``: how far the latents of all levels together are
  from standard normal noise (`glow.latent_statistics`).
- ``latent_power_1`` ... , ``latent_rows_1`` ... and ``latent_columns_1`` ... : the mean square of each level's latents,
  and the correlation of neighbouring latents in a row and in a column.
- ``finite``: whether the likelihood and all its parts are finite.
- ``complexity``: size of the image as a PNG file, minus the size of a black image as a PNG file, in bits. If ``bits``
  is below 8, the lowest 8 - ``bits`` bits of every value are first set to 0, as the model sees the image.
- ``gradient_1`` ... ``gradient_G``, only if they are asked for: the squared norm of the gradient of log p(x) with
  respect to the parameters of each layer (`glow.gradient_norms`); NaN for images that `gradient_stride` skips.
- ``nll_of_all`` and ``nll_bound``, only for K > 1 noise samples: the mean of the K negative log-likelihoods, and their
  importance-weighted bound (`importance_weighted`).

Shapes: N images, B in a batch, C channels, H rows, W columns, D = C * H * W, L levels, K noise samples.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence, Sized

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import Tensor

from glow.datasets.lazy import LazyDataset
from glow.dequantization import reduced, uniform_noise
from glow.gradient_norms import gradient_layers, gradient_norms
from glow.hardware import without_tf32
from glow.latent_statistics import anderson_darling, second_moments, spectrum_variation
from glow.model import Glow, Precision

BATCH_SIZE = 250
"""Images per forward pass."""

MOMENTS = ("power", "rows", "columns")
"""Names of the second moments of each level's latents, see `glow.latent_statistics.SecondMoments`."""

MOST_NOISE_SAMPLES = 1000
"""Largest number of noise samples per image: each needs a separate random stream, see `_stream`."""


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
    gradient_stride: int = 0,
    batch_size: int = BATCH_SIZE,
) -> pd.DataFrame:
    """Score images under a model: one forward pass per image and noise sample.

    The scores of an image do not depend on the other images, their order or the batch size. In float32 the NLL has a
    relative error of at most 1e-5 compared with a float64 model. In bf16 the coupling networks compute with a mantissa
    of 8 bits, which moves the NLL of single images by up to about 0.02 bits/dim.

    Args:
        model: the trained model. It is left with the given `precision`.
        images_NCHW: uint8 (N, C, H, W).
        labels_N: int64 (N,), only copied into the table; zeros if None. A class-conditional model too computes log p(x)
            without labels.
        indices_N: int64 (N,), positions of the images in their split; 0 to N - 1 if None.
        seed: seed of the dequantisation noise.
        precision: precision of the coupling networks.
        noise_samples: K. All columns except ``nll_of_all`` and ``nll_bound`` are computed from the first sample.
        gradient_stride: n, to compute the gradient norms of every n-th image of the split; 0 for none. The norms of one
            image take a forward and a backward pass of this image alone, about 15 times as long as its other scores.
        batch_size: images per forward pass, which bounds the memory in use.

    Returns:
        The score table, with N rows and the columns that the module describes.

    Raises:
        ValueError: if the images have another type or shape than the model's, or `noise_samples` is not between 1 and
            1000.

    Examples:
        >>> from glow.config import GlowConfig
        >>> model = Glow(GlowConfig(image_shape=(1, 8, 8), levels=2, depth=1, width=8))
        >>> table = score(model, torch.zeros(3, 1, 8, 8, dtype=torch.uint8))
        >>> list(table)[:7]
        ['index', 'label', 'nll', 'bits_per_dim', 'log_det', 'log_prior_1', 'log_prior_2']
        >>> parts = table["log_det"] + table["log_prior_1"] + table["log_prior_2"]
        >>> np.allclose(table["nll"], 64 * math.log(256) - parts)
        True
    """
    if not 1 <= noise_samples <= MOST_NOISE_SAMPLES:
        raise ValueError(f"noise_samples must be between 1 and {MOST_NOISE_SAMPLES}, not {noise_samples}")
    n = len(images_NCHW)
    indices_N = torch.arange(n) if indices_N is None else indices_N
    labels_N = torch.zeros(n, dtype=torch.int64) if labels_N is None else labels_N
    model.set_precision(precision)
    dimensions, levels = model.config.dimensions, model.config.levels
    likelihoods = 1 + 2 * levels  # columns of `_terms` that add up to the log-likelihood
    parts, sums, gradients = [], [], []
    with without_tf32():  # also with coupling networks in bf16, because the rest is float32
        for start in range(0, n, batch_size):
            images_BCHW = images_NCHW[start : start + batch_size].to(model.device)
            indices_B = indices_N[start : start + batch_size].to(model.device)
            samples = [_terms(model, images_BCHW, indices_B, _stream(seed, k)) for k in range(noise_samples)]
            parts.append(samples[0])
            sums.append(np.stack([sample[:, :likelihoods].sum(1) for sample in samples], 1))
            if gradient_stride:
                gradients.append(_gradients(model, images_BCHW, indices_B, seed, gradient_stride))
    terms = np.concatenate(parts) if parts else np.empty((0, likelihoods + len(latent_columns(levels))))
    likelihood, latents = terms[:, :likelihoods], terms[:, likelihoods:]
    sums_NK = np.concatenate(sums) if sums else np.empty((0, noise_samples))
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
    if gradients:
        norms_NG = np.concatenate(gradients)
        table = table.assign(**{f"gradient_{layer + 1}": norms_NG[:, layer] for layer in range(norms_NG.shape[1])})
    if noise_samples > 1:
        table["nll_of_all"], table["nll_bound"] = nll_NK.mean(1), importance_weighted(nll_NK)
    return table


def _gradients(model: Glow, images_BCHW: Tensor, indices_B: Tensor, seed: int, stride: int) -> np.ndarray:
    """Return the gradient norms (B, G) of every `stride`-th image of the split, and NaN for the others."""
    norms_BG = np.full((len(images_BCHW), len(gradient_layers(model))), np.nan)
    wanted_B = indices_B % stride == 0
    noise_BCHW = uniform_noise(indices_B[wanted_B], model.config.image_shape, seed)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # one image is too little work for more, and on a busy machine they wait for each other
    try:
        norms_BG[wanted_B.cpu().numpy()] = gradient_norms(model, images_BCHW[wanted_B], noise_BCHW).cpu().numpy()
    finally:
        torch.set_num_threads(threads)
    return norms_BG


def _terms(model: Glow, images_BCHW: Tensor, indices_B: Tensor, stream: int) -> np.ndarray:
    """Return the scores of a batch under one noise sample, float64 (B, 1 + 2 L + 3 + 3 L).

    The columns are the log-det of the input, the log-det of each level, log p(z) of each level, and `latent_columns`.
    """
    noise_BCHW = uniform_noise(indices_B, model.config.image_shape, stream)
    terms = model.log_prob_terms(images_BCHW, noise_BCHW=noise_BCHW)
    likelihood = [terms.input_log_det_B[:, None], terms.log_det_BL, terms.log_prior_BL]
    return torch.cat([*(part.double() for part in likelihood), latent_statistics(terms.standardized)], 1).cpu().numpy()


def latent_statistics(standardized: Sequence[Tensor]) -> Tensor:
    """Compute the columns of a score table about the latents, in the order of `latent_columns`.

    Args:
        standardized: for each level float (B, C, H, W), as in `glow.model.LogProbTerms`.

    Returns:
        float64 (B, 3 + 3 L).

    Examples:
        >>> latent_statistics([torch.zeros(5, 2, 4, 4), torch.zeros(5, 4, 2, 2)]).shape
        torch.Size([5, 9])
    """
    standardized_BD = torch.cat([level.flatten(1) for level in standardized], 1)
    moments = second_moments(standardized)
    return torch.column_stack(
        [
            anderson_darling(standardized_BD),
            spectrum_variation(standardized_BD),
            moments.portmanteau(),
            moments.power_BL,
            moments.rows_BL,
            moments.columns_BL,
        ]
    )


def latent_columns(levels: int) -> list[str]:
    """Return the names of a score table's columns about the latents, in order.

    Examples:
        >>> latent_columns(1)[2:]
        ['latent_neighbours', 'latent_power_1', 'latent_rows_1', 'latent_columns_1']
    """
    by_level = [f"latent_{name}_{level}" for name in MOMENTS for level in range(1, levels + 1)]
    return ["latent_anderson", "latent_spectrum", "latent_neighbours", *by_level]


def _stream(seed: int, sample: int) -> int:
    """Return the number of the random stream of a noise sample.

    The first sample uses the seed itself. Streams of trainings and of other seeds are below 2**52, so that the others
    collide with none of them.
    """
    return seed + (sample << 52)


def importance_weighted(nll_NK: np.ndarray) -> np.ndarray:
    r"""Return the importance-weighted bound on -log P(image).

    It is :math:`-\log \frac1K \sum_k e^{-\mathrm{nll}_k}` (Burda et al. 2016, equation 8, with the dequantisation noise
    as the latent variable). In expectation it falls towards -log P(image) as K grows; at K = 1 it is the negative
    log-likelihood under one noise sample.

    Args:
        nll_NK: float (N, K), negative log-likelihoods of N images under K noise samples, in nats.

    Returns:
        float (N,), in nats.

    Examples:
        >>> importance_weighted(np.array([[100.0, 100.0], [100.0, 110.0]])).round(2).tolist()
        [100.0, 100.69]
    """
    return -(np.logaddexp.reduce(-nll_NK, axis=1) - math.log(nll_NK.shape[1]))


def complexity(images_NCHW: Tensor) -> np.ndarray:
    """Return the length of each image under a lossless codec, PNG (Serrà et al. 2020, section 3).

    The length of a black image of the same size is subtracted, which removes the overhead of the file format.

    Args:
        images_NCHW: uint8 (N, C, H, W). PNG has at most four channels; if there are more, they lie below one another.

    Returns:
        float (N,), in bits.

    Examples:
        >>> black = torch.zeros(1, 1, 16, 16, dtype=torch.uint8)
        >>> noise = torch.randint(0, 256, black.shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        >>> bits = complexity(torch.cat([black, noise]))
        >>> float(bits[0]), bool(bits[1] > 0.9 * 8 * 16 * 16)
        (0.0, True)
    """
    if len(images_NCHW) == 0:
        return np.empty(0)
    if images_NCHW.shape[1] > 4:
        images_NCHW = images_NCHW.flatten(1, 2)[:, None]
    arrays = images_NCHW.permute(0, 2, 3, 1).cpu().numpy()
    floor = _png_bits(np.zeros_like(arrays[0]))
    return np.array([_png_bits(array) - floor for array in arrays], float)


def _png_bits(image_HWC: np.ndarray) -> int:
    """Return the size of an image as a PNG file, in bits."""
    buffer = io.BytesIO()
    Image.fromarray(image_HWC.squeeze(-1) if image_HWC.shape[-1] == 1 else image_HWC).save(buffer, "png", optimize=True)
    return 8 * len(buffer.getvalue())


SHARD = 1000
"""Images per shard."""


def shards_of(splits: Mapping[str, Sized]) -> list[tuple[str, int]]:
    """Divide splits into shards of at most `SHARD` consecutive images.

    Args:
        splits: each split by its name; only its length is used.

    Returns:
        For each shard, in order, the name of its split and the index of its first image.

    Examples:
        >>> shards_of({"train": range(2500), "validation": range(300), "test": range(900)})
        [('train', 0), ('train', 1000), ('train', 2000), ('validation', 0), ('test', 0)]
    """
    return [(split, start) for split in splits for start in range(0, len(splits[split]), SHARD)]


def score_shard(model: Glow, images: LazyDataset, start: int) -> pd.DataFrame:
    """Score one shard of a split in float32.

    Args:
        model: the trained model. It is left in float32 precision.
        images: the split.
        start: index of the shard's first image, see `shards_of`.

    Returns:
        The score table of the shard's images, at most `SHARD`, with their indices in the split.

    Raises:
        ValueError: if the images have another shape than the model's.

    Examples:
        >>> from glow.config import GlowConfig
        >>> model = Glow(GlowConfig(image_shape=(1, 4, 4), levels=1, depth=1, width=8))
        >>> split = LazyDataset.held(torch.zeros(1003, 1, 4, 4, dtype=torch.uint8), torch.arange(1003))
        >>> score_shard(model, split, start=1000)["index"].tolist()
        [1000, 1001, 1002]
    """
    stop = min(start + SHARD, len(images))
    return score(model, images.images(start, stop), images.labels[start:stop], indices_N=torch.arange(start, stop))
