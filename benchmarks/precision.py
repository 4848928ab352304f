"""The likelihoods and OOD decisions of one trained model in bf16, compared to those in float32."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from torch import Tensor

from benchmarks.row import Figure, Row, Setting, at_least, at_most
from glow import FitConfig, Glow, GlowConfig, fit, load_dataset, score
from glow.datasets import status
from glow.model import Precision
from glow.ood import OodSettings, evaluate_ood, held_out_protocol

__all__ = ["ROW", "unchanged"]

BATCH_SIZES = (1, 2, 5, 10)
SCORED, TESTED = 1000, 5000
"""Number of test images whose likelihoods are compared, and largest number of images per set for the decisions."""
EPOCHS = 8
PER_CLASS = 1000


@dataclass(frozen=True)
class Data:
    """The data sets of the comparison.

    Attributes:
        name: the data set that the model is trained on.
        train: uint8 (N, C, H, W), its training images.
        held_out: uint8 (n, C, H, W), its held-out images.
        tests: the test images by data set, the model's own first.
        levels: number of levels of the model.
    """

    name: str
    train: Tensor
    held_out: Tensor
    tests: dict[str, Tensor]
    levels: int

    @classmethod
    def load(cls, images_per_class: int = PER_CLASS) -> Data:
        """Load MNIST and Fashion-MNIST if their files are there, else the digits of scikit-learn and noise."""
        if all(status(name).state == "found" for name in ("mnist", "fashion-mnist")):
            own, other, per_class, levels = "mnist", "fashion-mnist", images_per_class, 3
        else:
            own, other, per_class, levels = "digits", "noise", None, 2
        train = load_dataset(own, "train", per_class=per_class)[0]
        _, channels, height, width = train.shape
        tests = {
            name: load_dataset(name, "test", image_shape=(channels, height, width))[0][:TESTED] for name in (own, other)
        }
        held_out = load_dataset(own, "validation")[0]
        return cls(own, train, held_out[:TESTED], tests, levels)


def same(how: Setting) -> tuple[list[Figure], str]:
    """Train a model, and compare its likelihoods and decisions in both precisions."""
    if "bf16" not in how.precisions:
        return [], "Not measured: this hardware does not compute in bf16."
    data = Data.load()
    model = trained(data, how)
    tables = {precision: scores(model, data, precision) for precision in how.precisions}
    full, half = (tables[precision]["own"].bits_per_dim[:SCORED] for precision in ("float32", "bf16"))
    ratios = {precision: ratio_table(tables[precision], list(data.tests)) for precision in how.precisions}
    cells = unchanged(ratios["float32"], ratios["bf16"])
    figures = [
        Figure("difference of the mean NLL", abs(half.mean() - full.mean()), "bits/dim"),
        Figure("OOD table: cells within each other's intervals", 100 * cells.mean(), "%"),
        Figure("mean NLL in float32", full.mean(), "bits/dim"),
        Figure("largest difference of an image", float((half - full).abs().max()), "bits/dim"),
    ]
    for before, after in zip(*(ratios[p].itertuples() for p in ("float32", "bf16")), strict=True):
        for precision, cell in (("float32", before), ("bf16", after)):
            figures.append(Figure(f"{cell.dataset}, M={cell.batch_size}, {precision}: OOD", 100 * cell.ratio, "%"))
    tested = ", ".join(f"{len(images):,} of {name}" for name, images in data.tests.items())
    return figures, (
        f"A model of {data.name} (K=8 width 64, {epochs(data, how)} epochs of {len(data.train):,} images). NLL of "
        f"{len(full):,} test images; decisions on {tested}, thresholds from {len(data.held_out):,} held-out images."
    )


def epochs(data: Data, how: Setting) -> int:
    """Return the number of epochs: about a minute of training on two cores for either data set."""
    return how.times(EPOCHS if data.levels == 3 else 6 * EPOCHS)


def trained(data: Data, how: Setting) -> Glow:
    """Train the model."""
    model = Glow(GlowConfig(tuple(data.train.shape[1:]), levels=data.levels, depth=8, width=64))  # type: ignore[arg-type]
    fit(model, data.train, config=FitConfig(epochs=epochs(data, how), learning_rate=2e-3, warmup_steps=50))
    return model


def scores(model: Glow, data: Data, precision: Precision) -> dict[str, pd.DataFrame]:
    """Return the score tables of "train", "held out" and each test set; the model's own test set is also "own"."""
    images = {"train": data.train[:TESTED], "held out": data.held_out, **data.tests}
    tables = {name: score(model, some, precision=precision) for name, some in images.items()}
    return tables | {"own": tables[next(iter(data.tests))]}


def ratio_table(tables: dict[str, pd.DataFrame], tests: list[str]) -> pd.DataFrame:
    """Return the OOD ratios of the typicality test, one row per test set and M."""
    deal = held_out_protocol(tables["held out"], {name: tables[name] for name in tests})
    ratios = evaluate_ood(tables["train"], deal, OodSettings(batch_sizes=BATCH_SIZES)).ratios
    return ratios[ratios.detector == "typicality"].reset_index(drop=True)


def unchanged(before: pd.DataFrame, after: pd.DataFrame) -> np.ndarray:
    """Return, as bool (cells,), whether each ratio and its counterpart are in each other's intervals."""
    within = after.ratio.between(before.ratio_low, before.ratio_high)
    return (within & before.ratio.between(after.ratio_low, after.ratio_high)).to_numpy()


ROW = Row(
    "precision",
    "bf16 against float32: the same likelihoods and decisions",
    same,
    (
        at_most("difference of the mean NLL", 0.002, "bits/dim"),
        at_least("OOD table: cells within each other's intervals", 100, "%"),
    ),
)
