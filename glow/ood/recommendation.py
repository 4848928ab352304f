"""Recommendation of a detector, made without looking at the data sets that will be tested.

Corrupted held-out images stand in for unknown out-of-distribution (OOD) images, and, if there are some, images of
classes that the model was trained without. Corruptions favour detectors of pixels, new classes those of content. The
recommended detector is the one that separates them best from the held-out images, on average (`recommend`). After the
data sets have been tested, `regret` shows how much better the best detector would have been. `corruption_power` shows
how often batches of corrupted images are called OOD at each batch size, and so how many images it takes to notice a
drift of the data. This module needs no torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from glow.ood.detectors import DETECTORS, Detector
from glow.ood.evaluation import OodSettings
from glow.ood.statistics import auroc, disjoint_batches, share_of

NEW_CLASSES = "new classes"
"""The column of `Recommendation.aurocs` for images of classes that the model was trained without."""


@dataclass(frozen=True)
class Recommendation:
    """The recommended detector and the AUROCs that it was chosen by.

    Attributes:
        detector: name of the recommended detector.
        aurocs: one row per detector, and one column per corruption with the AUROC of single images; the column
            `NEW_CLASSES`, if there were such images. The last column, ``mean``, decides: the mean over corruptions, or
            half of it and half of `NEW_CLASSES`.

    Examples:
        >>> aurocs = pd.DataFrame({"blur": [0.6, 0.9], "mean": [0.6, 0.9]}, index=["likelihood", "joint"])
        >>> found = Recommendation("joint", aurocs)
        >>> float(found.aurocs.loc[found.detector, "mean"])
        0.9
    """

    detector: str
    aurocs: pd.DataFrame


def recommend(
    detectors: Sequence[Detector],
    held_out: pd.DataFrame,
    corrupted: pd.DataFrame,
    names: Sequence[str],
    new_classes: pd.DataFrame | None = None,
) -> Recommendation:
    """Recommend the detector of `DETECTORS` that separates corrupted images, and new classes, best from held-out ones.

    ``ratio`` is never recommended: its background model has learned from corrupted images itself, so that corruptions
    do not show how well it detects anything else.

    Args:
        detectors: the detectors to choose from, as `fit_detectors` returns them.
        held_out: score table of images that the model was not trained on.
        corrupted: score table of some of these images after corruption. The column ``label`` is the index of the
            corruption in `names`.
        names: the name of each corruption.
        new_classes: score table of images of classes that the model was trained without, none of which is tested later;
            None for corruptions alone.

    Returns:
        The detector with the highest mean AUROC, and the AUROCs of all that were compared.

    Raises:
        ValueError: if there are too few held-out images, or a corruption has no images.

    Examples:
        >>> from glow.ood.typicality import MeanTest
        >>> def by(name, column):
        ...     return Detector(name, lambda table: table[column].to_numpy(), MeanTest.fit)
        >>> held_out = pd.DataFrame({"nll": [1.0, 2.0, 3.0], "spectrum": [1.0, 1.0, 1.1]})
        >>> blurred = pd.DataFrame({"nll": [0.5, 1.5], "spectrum": [2.0, 3.0], "label": 0})
        >>> found = recommend([by("likelihood", "nll"), by("latents", "spectrum")], held_out, blurred, ["blur"])
        >>> found.detector, found.aurocs["blur"].round(2).to_dict()
        ('latents', {'likelihood': 0.17, 'latents': 1.0})
    """
    rows = {}
    for detector in detectors:
        if detector.name in DETECTORS and detector.name != "ratio":
            test = detector.fit(held_out, 1, 0.5, interval=False)
            own = test.statistic(detector.image_scores(held_out)[:, None])
            far = test.statistic(detector.image_scores(corrupted)[:, None])
            labels = corrupted["label"].to_numpy()
            rows[detector.name] = [auroc(own, far[labels == label]) for label in range(len(names))]
            if new_classes is not None:
                unknown = test.statistic(detector.image_scores(new_classes)[:, None])
                rows[detector.name].append(auroc(own, unknown))
    columns = [*names, *([] if new_classes is None else [NEW_CLASSES])]
    aurocs = pd.DataFrame.from_dict(rows, orient="index", columns=columns).rename_axis("detector")
    mean = aurocs[list(names)].mean(axis=1)
    aurocs["mean"] = mean if new_classes is None else (mean + aurocs[NEW_CLASSES]) / 2
    return Recommendation(str(aurocs["mean"].idxmax()), aurocs)


def regret(ratios: pd.DataFrame, detector: str) -> pd.DataFrame:
    """Compare a detector with the detector of the highest AUROC on each data set.

    Only tests on these data sets tell which of `DETECTORS` has the highest AUROC, so `recommend` cannot know it.

    Args:
        ratios: the table `ratios` of a `glow.ood.OodResult`.
        detector: name of the recommended detector.

    Returns:
        One row per data set and batch size: ``dataset``, ``batch_size``, ``detector``, its ``auroc``,
        ``best_detector`` and its ``best_auroc``. Rows of the model's own test set, which have no AUROC, are left out.

    Examples:
        >>> ratios = pd.DataFrame({"detector": ["joint", "density"], "dataset": "svhn", "batch_size": 1})
        >>> regret(ratios.assign(auroc=[0.97, 0.92]), "density").iloc[0].to_dict()
        {'dataset': 'svhn', 'batch_size': 1, 'detector': 'density', 'auroc': 0.92, 'best_detector': 'joint',
        'best_auroc': 0.97}
    """
    told = ratios[ratios["detector"].isin(DETECTORS)].dropna(subset=["auroc"])
    best = told.loc[told.groupby(["dataset", "batch_size"], sort=False)["auroc"].idxmax()]
    best = best[["dataset", "batch_size", "detector", "auroc"]].rename(
        columns={"detector": "best_detector", "auroc": "best_auroc"}
    )
    chosen = told.loc[told["detector"] == detector, ["dataset", "batch_size", "auroc"]]
    table = chosen.merge(best, on=["dataset", "batch_size"])
    return table.assign(detector=detector)[
        ["dataset", "batch_size", "detector", "auroc", "best_detector", "best_auroc"]
    ]


def corruption_power(
    detectors: Sequence[Detector],
    held_out: pd.DataFrame,
    corrupted: pd.DataFrame,
    names: Sequence[str],
    settings: OodSettings,
) -> pd.DataFrame:
    """Measure how often batches of corrupted images are called OOD.

    Args:
        detectors: the detectors to measure.
        held_out: score table of the held-out images that thresholds come from.
        corrupted: score table of corrupted images of several kinds. A kind is one corruption at one severity. The
            column ``label`` is the index of an image's kind in `names`.
        names: the name of each kind: the corruption followed by a one-digit severity, such as ``noise3``.
        settings: batch sizes, alpha, number of bootstraps, and seed.

    Returns:
        One row per detector, kind and batch size, except batch sizes for which the kind has too few images:
        ``detector``, ``corruption``, ``severity``, ``batch_size``, ``batches``, and the share ``ratio`` of batches that
        are called OOD with its 95 % Wilson interval ``ratio_low`` to ``ratio_high``.

    Raises:
        ValueError: for the same reasons as `glow.ood.TypicalityTest.fit`.

    Examples:
        >>> from glow.ood.typicality import MeanTest
        >>> nll = Detector("likelihood", lambda table: table["nll"].to_numpy(), MeanTest.fit)
        >>> held_out = pd.DataFrame({"nll": np.arange(99.0)})
        >>> noisy = pd.DataFrame({"nll": [50.0, 99.0, 200.0, 300.0], "label": [0, 0, 1, 1]})
        >>> power = corruption_power([nll], held_out, noisy, ["noise1", "noise2"], OodSettings(batch_sizes=[1]))
        >>> power[["corruption", "severity", "batches", "ratio"]].to_numpy().tolist()
        [['noise', 1, 2, 0.5], ['noise', 2, 2, 1.0]]
    """
    rows = []
    labels = corrupted["label"].to_numpy()
    for detector in detectors:
        scores = detector.image_scores(corrupted)
        for m in sorted(set(settings.batch_sizes)):
            test = detector.fit(
                held_out, m, settings.alpha, settings.bootstraps, settings.seed, exact=settings.exact, interval=False
            )
            for label, kind in enumerate(names):
                of_kind = scores[labels == label]
                if len(of_kind) < m:
                    continue
                batches = disjoint_batches(len(of_kind), m, np.random.default_rng([settings.seed, m, label]))
                row = {"detector": detector.name, "corruption": kind[:-1], "severity": int(kind[-1]), "batch_size": m}
                rows.append(row | share_of(test.is_ood(of_kind[batches])))
    return pd.DataFrame(rows)
