"""Which detector to trust, chosen without a look at the data sets that are to be told.

Corrupted images stand for whatever may come: the detector is recommended that tells them best, on average over the
corruptions, from the held-out images that they were made of. No torch here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from glow.ood.detectors import DETECTORS, Detector
from glow.ood.evaluation import OodSettings
from glow.ood.statistics import auroc, disjoint_batches, wilson_interval

__all__ = ["Recommendation", "corruption_power", "recommend", "regret"]


@dataclass(frozen=True)
class Recommendation:
    """The detector to trust.

    Args:
        detector: its name.
        aurocs: a row for each detector, and a column for each corruption with the AUROC of single images; the last
            column, ``mean``, is what was chosen by.
    """

    detector: str
    aurocs: pd.DataFrame


def recommend(
    detectors: Sequence[Detector], held_out: pd.DataFrame, corrupted: pd.DataFrame, names: Sequence[str]
) -> Recommendation:
    """The detector of `DETECTORS` that tells corrupted images best.

    Args:
        detectors: of `fit_detectors`.
        held_out: score table of images that the model was not trained on.
        corrupted: score table of some of them, corrupted; the label is the corruption.
        names: of the corruptions, by label.

    Raises:
        ValueError: for a table of no images.
    """
    rows = {}
    for detector in detectors:
        if detector.name in DETECTORS:
            test = detector.fit(held_out, 1, 0.5, interval=False)
            own = test.statistic(detector.image_scores(held_out)[:, None])
            far = test.statistic(detector.image_scores(corrupted)[:, None])
            labels = corrupted["label"].to_numpy()
            rows[detector.name] = [auroc(own, far[labels == label]) for label in range(len(names))]
    aurocs = pd.DataFrame.from_dict(rows, orient="index", columns=list(names)).rename_axis("detector")
    aurocs["mean"] = aurocs.mean(axis=1)
    return Recommendation(str(aurocs["mean"].idxmax()), aurocs)


def regret(ratios: pd.DataFrame, detector: str) -> pd.DataFrame:
    """What the choice of a detector costs: a row for each data set and M with its AUROC, the detector that was best
    there, which nobody knows beforehand, and that one's AUROC.

    Args:
        ratios: of `glow.ood.OodResult`.
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
    """How often batches of corrupted images are called OOD.

    Args:
        detectors: those to ask.
        held_out: score table that thresholds come from.
        corrupted: score table of corrupted images; the label is the kind.
        names: of the kinds, each a corruption and its severity: ``noise3``.

    Returns:
        A row for each detector, kind and M: ``detector``, ``corruption``, ``severity``, ``batch_size``, ``batches``,
        ``ratio`` with Wilson's interval.
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
                ood = test.is_ood(of_kind[batches])
                low, high = wilson_interval(int(ood.sum()), len(ood))
                rows.append(
                    {
                        "detector": detector.name,
                        "corruption": kind[:-1],
                        "severity": int(kind[-1]),
                        "batch_size": m,
                        "batches": len(ood),
                        "ratio": float(ood.mean()),
                        "ratio_low": low,
                        "ratio_high": high,
                    }
                )
    return pd.DataFrame(rows)
