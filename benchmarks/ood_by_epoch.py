"""Does a better flow detect worse? AUROCs of single images against the epoch and the bits/dim, over several trainings.

    python -m benchmarks.ood_by_epoch --dataset arrays:cifar --others arrays:svhn,arrays:cifar100 --figure epochs.png

The learning rate is constant and the weights are averaged (EMA 0.995), so that every epoch is a fair end of a training.
After some epochs the script scores training, test and other images, and prints for each detector the mean AUROC over
the seeds with its 95 % t interval. The figure has one panel per other data set.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd

from benchmarks.common import parse
from glow import Glow, Trainer, load_dataset, score
from glow.ood import auroc_estimate, fit_detectors
from glow.ood.statistics import mean_interval
from glowctl.specs.training import make_train_spec

LOOKS = (1, 2, 3, 4, 6, 8, 10, 12, 16, 20, 30)
"""Epochs after which the model is tested."""

DETECTORS = ("typicality", "likelihood", "joint")


def training(dataset: str, others: list[str], epochs: int, images: int, seed: int) -> Iterator[dict[str, Any]]:
    """Train one model; yield a row per look, other data set and detector."""
    spec = make_train_spec("laptop", {"epochs": epochs, "seed": seed, "schedule": "constant", "ema": 0.995})
    train = load_dataset(dataset, "train")[0]
    channels, height, width = train.shape[1:]
    model = Glow(spec.glow_config((channels, height, width), 0))
    tested = {name: load_dataset(name, "test", image_shape=model.config.image_shape)[0] for name in (dataset, *others)}
    trainer = Trainer(model, train, config=dataclasses.replace(spec.fit_config(), epochs=epochs))
    for result in trainer.epochs():
        if result.epoch in (*LOOKS, epochs):
            known = score(trainer.evaluated_model, train[:images])
            tables = {name: score(trainer.evaluated_model, held[:images]) for name, held in tested.items()}
            for detector in fit_detectors(known):
                if detector.name in DETECTORS:
                    own = detector.image_scores(tables[dataset])
                    for name in others:
                        yield {
                            "seed": seed,
                            "epoch": result.epoch,
                            "bits_per_dim": tables[dataset]["bits_per_dim"].mean(),
                            "other": Path(name.rpartition(":")[2]).name,
                            "detector": detector.name,
                            "auroc": auroc_estimate(own, detector.image_scores(tables[name])).value,
                        }


def over_seeds(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the mean AUROC of each look with its interval, and the mean bits/dim."""
    means = []
    for key, group in rows.groupby(["other", "detector", "epoch"], sort=False):
        estimate = mean_interval(group["auroc"].to_numpy())
        means.append([*key, group["bits_per_dim"].mean(), estimate.value, estimate.low, estimate.high])
    return pd.DataFrame(means, columns=["other", "detector", "epoch", "bits_per_dim", "auroc", "low", "high"])


def draw(means: pd.DataFrame, path: Path) -> None:
    """Draw a panel per other data set, a line per detector, with bands over the seeds."""
    others = list(dict.fromkeys(means["other"]))
    figure, panels = plt.subplots(1, len(others), figsize=(5 * len(others), 4), squeeze=False, layout="constrained")
    for panel, other in zip(panels[0], others, strict=True):
        for detector, group in means[means["other"] == other].groupby("detector", sort=False):
            (line,) = panel.plot(group["epoch"], group["auroc"], marker="o", label=str(detector))
            panel.fill_between(group["epoch"], group["low"], group["high"], alpha=0.2, color=line.get_color())
        panel.set(title=other, xlabel="epoch", ylabel="AUROC of single images")
    panels[0][0].legend()
    figure.savefig(path, dpi=110)


def main() -> None:
    """Train with every seed, print the means, and draw the figure."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ood_by_epoch", description=__doc__)
    parser.add_argument("--dataset", default="cifar10", help="data set to train on (default cifar10)")
    parser.add_argument("--others", default="svhn,cifar100", help="data sets to test, with commas between")
    parser.add_argument("--epochs", type=int, default=12, help="length of each training (default 12)")
    parser.add_argument("--seeds", type=int, default=3, help="number of trainings (default 3)")
    parser.add_argument("--images", type=int, default=2000, help="images of each data set that are scored")
    parser.add_argument("--figure", type=Path, help="picture of the AUROCs")
    asked = parse(parser)
    epochs, seeds, images = (2, 2, 100) if asked.quick else (asked.epochs, asked.seeds, asked.images)
    rows: list[dict[str, Any]] = []
    for seed in range(seeds):
        rows += training(asked.dataset, asked.others.split(","), epochs, images, seed)
        means = over_seeds(pd.DataFrame(rows))
        print(f"{seed + 1} of {seeds} trainings", means.round(4).to_string(index=False), sep="\n", flush=True)
        if asked.figure:
            draw(means, asked.figure)


if __name__ == "__main__":
    main()
