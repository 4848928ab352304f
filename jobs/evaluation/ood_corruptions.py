"""The corrupted images of the OOD job. They serve to recommend a detector, and to test which corruptions it notices.

The recommendation uses held-out images under all corruptions. With ``--corruptions``, the job also finds how many
corrupted test images per batch (M) the recommended detector and the typicality test need to notice each corruption.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from glow.datasets import LazyDataset
from glow.datasets.corruptions import SEVERITIES, all_corrupted
from glow.datasets.names import dataset_label
from glow.figures.pictures import batch_sizes_that_catch, corruption_grid
from glow.ood import OodResult, OodSettings, corruption_power, recommend, regret
from glow.ood.detectors import Detector
from jobs.errors import SpecError
from jobs.specs.evaluation import CORRUPTIONS, OodSpec
from jobs.text import Row, rows_of

RECOMMENDED_BY = 300
"""Number of held-out images per corruption, at severity `MIDDLE`, by which a detector is recommended."""

MIDDLE = 3
"""The severity in the middle of 1 to 5."""

Scores = Mapping[tuple[str, str], pd.DataFrame]
"""Score tables by (label of the data set, split)."""


@dataclass(frozen=True)
class Drift:
    """The results of an OOD job on corrupted images. All fields are None or empty if no corrupted images were scored.

    Attributes:
        recommended: name of the detector with the highest mean AUROC over all corruptions of held-out images.
        regret: for each tested data set and batch size M, the AUROC of the recommended detector, and the highest AUROC
            of any detector.
        caught: for each corruption of the test images and each severity, the smallest M at which the recommended
            detector notices the corruption; empty without ``--corruptions``.
        tables: tables to write into MLflow, by name.
    """

    recommended: str | None
    regret: list[Row]
    caught: list[Row]
    tables: dict[str, pd.DataFrame]


def corrupted_images(
    spec: OodSpec, own: str, images: Mapping[tuple[str, str], LazyDataset]
) -> dict[tuple[str, str], LazyDataset]:
    """Return the corrupted images to score, in addition to the data sets of the job.

    Args:
        spec: the settings.
        own: name of the data set that the model was trained on.
        images: data sets of the job by (name, split).

    Returns:
        Corrupted images by (name, split): always those of the validation split, and with ``--corruptions`` also those
        of the test split. Empty if the protocol holds out no images.

    Raises:
        SpecError: if ``--corruptions`` is given and the protocol holds out no images.
    """
    held_out = images.get((own, "validation"))
    if held_out is None:
        if spec.corruptions:
            raise SpecError(
                "--corruptions takes its thresholds from held-out images, but --protocol split-test holds none out",
                remedy="leave out --corruptions or --protocol split-test",
                code="corruptions-without-held-out",
            )
        return {}
    found = {
        (_name(own), "validation"): all_corrupted(held_out, CORRUPTIONS, (MIDDLE,), RECOMMENDED_BY, spec.seed),
    }
    if spec.corruptions:
        test = images[own, "test"]
        found[_name(own), "test"] = all_corrupted(test, spec.corruptions, SEVERITIES, spec.corruption_images, spec.seed)
    return found


def _name(own: str) -> str:
    return f"{own}-corrupted"


def drift(
    spec: OodSpec, settings: OodSettings, own: str, detectors: list[Detector], scores: Scores, result: OodResult
) -> Drift:
    """Recommend a detector, and test which corruptions this detector and the typicality test notice.

    Args:
        spec: the settings of the job.
        settings: the settings of the tests.
        own: name of the data set that the model was trained on.
        detectors: the fitted detectors.
        scores: all score tables of the job.
        result: the results on the other data sets. They show how much better the best detector is than the recommended
            one (`Drift.regret`).

    Raises:
        ValueError: if too many scores are not finite.
    """
    tables: dict[str, pd.DataFrame] = {}
    recommended, costs, caught = None, [], []
    name = dataset_label(_name(own))
    own = dataset_label(own)
    if (name, "validation") in scores:
        chosen = recommend(detectors, scores[own, "validation"], scores[name, "validation"], CORRUPTIONS)
        recommended = chosen.detector
        costs = rows_of(regret(result.ratios, recommended))
        tables["ood_recommended"] = chosen.aurocs.reset_index()
    if spec.corruptions:
        asked = [each for each in detectors if each.name in {recommended, "typicality"}]
        kinds = [f"{corruption}{severity}" for corruption in spec.corruptions for severity in SEVERITIES]
        power = corruption_power(asked, scores[own, "validation"], scores[name, "test"], kinds, settings)
        caught = _caught(power[power["detector"] == recommended])
        tables["ood_corruptions"] = power
    return Drift(recommended, costs, caught, tables)


def _caught(power: pd.DataFrame) -> list[Row]:
    least = batch_sizes_that_catch(power)
    return [
        {"corruption": str(corruption), "batch_sizes": [int(m) if np.isfinite(m) else None for m in row]}
        for corruption, row in zip(least.index, least.to_numpy(), strict=True)
    ]


def draw_drift(found: Drift, model: str, folder: Path) -> None:
    """Draw for each tested detector the smallest M at which it notices each corruption, by severity.

    Args:
        found: the results; nothing is drawn if the job ran without ``--corruptions``.
        model: title of the model.
        folder: where the pictures go.
    """
    power = found.tables.get("ood_corruptions")
    if power is not None:
        for detector, rows in power.groupby("detector", sort=False):
            title = f"Corruptions that the detector {detector} notices, {model}"
            corruption_grid(rows, title).savefig(folder / f"corruptions-{detector}.png", dpi=120)
