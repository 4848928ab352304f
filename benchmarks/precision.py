"""Whether bf16 gives the likelihoods and OOD decisions of float32, by one trained model."""

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
"""Test images whose likelihoods are compared, and at most so many of each set for the decisions."""
EPOCHS = 8
PER_CLASS = 1000


@dataclass(frozen=True)
class Data:
    """What a model is trained on and tested with."""

    name: str
    train: Tensor
    held_out: Tensor
    tests: dict[str, Tensor]  # its own first
    levels: int

    @classmethod
    def load(cls, images_per_class: int = PER_CLASS) -> Data:
        """MNIST against Fashion-MNIST if their files are there, else the digits of scikit-learn against noise."""
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
    """About a minute of training on two cores, of a large data set or a small one of small images."""
    return how.times(EPOCHS if data.levels == 3 else 6 * EPOCHS)


def trained(data: Data, how: Setting) -> Glow:
    model = Glow(GlowConfig(tuple(data.train.shape[1:]), levels=data.levels, depth=8, width=64))  # type: ignore[arg-type]
    fit(model, data.train, config=FitConfig(epochs=epochs(data, how), learning_rate=2e-3, warmup_steps=50))
    return model


def scores(model: Glow, data: Data, precision: Precision) -> dict[str, pd.DataFrame]:
    """Score tables of the training images, those held out, and the test sets, the model's own first and as `own`."""
    images = {"train": data.train[:TESTED], "held out": data.held_out, **data.tests}
    tables = {name: score(model, some, precision=precision) for name, some in images.items()}
    return tables | {"own": tables[next(iter(data.tests))]}


def ratio_table(tables: dict[str, pd.DataFrame], tests: list[str]) -> pd.DataFrame:
    deal = held_out_protocol(tables["held out"], {name: tables[name] for name in tests})
    ratios = evaluate_ood(tables["train"], deal, OodSettings(batch_sizes=BATCH_SIZES)).ratios
    return ratios[ratios.detector == "typicality"].reset_index(drop=True)


def unchanged(before: pd.DataFrame, after: pd.DataFrame) -> np.ndarray:
    """(cells,) bool: whether each ratio lies in the interval of the other."""
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
