"""What corrupted images tell in the OOD job: which detector to trust, and which drift how many images catch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from glow.corruption_figures import batch_sizes_that_catch, corruption_grid
from glow.datasets import LazyDataset
from glow.datasets.corruptions import SEVERITIES, all_corrupted
from glow.datasets.names import dataset_label
from glow.ood import OodResult, OodSettings, corruption_power, recommend, regret
from glow.ood.detectors import Detector
from jobs.display.rows import Caught, OodRegret, rows_as
from jobs.errors import SpecError
from jobs.specs.evaluation import CORRUPTIONS, OodSpec

__all__ = ["Drift", "corrupted_images", "draw_drift", "drift"]

RECOMMENDED_BY = 300
"""Held-out images that each corruption is tried on, at the severity in the middle."""

MIDDLE = 3

Scores = Mapping[tuple[str, str], pd.DataFrame]


@dataclass(frozen=True)
class Drift:
    """What the OOD job says of corruptions; empty where none were scored."""

    recommended: str | None
    regret: list[OodRegret]
    caught: list[Caught]
    tables: dict[str, pd.DataFrame]


def corrupted_images(
    spec: OodSpec, own: str, images: Mapping[tuple[str, str], LazyDataset]
) -> dict[tuple[str, str], LazyDataset]:
    """The corrupted images to score, beside those of the job's data sets.

    Raises SpecError for corruptions to test where no image is held out.
    """
    held_out = images.get((own, "validation"))
    if held_out is None:
        if spec.corruptions:
            raise SpecError(
                "--corruptions takes its thresholds from held-out images, and --protocol report has none: leave out "
                "one of them"
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
    """Recommends a detector by the corrupted held-out images, and says which corruptions of test images it catches, in
    comparison with the typicality test.

    Raises ValueError for scores that cannot be tested with.
    """
    tables: dict[str, pd.DataFrame] = {}
    recommended, costs, caught = None, [], []
    name = dataset_label(_name(own))
    own = dataset_label(own)
    if (name, "validation") in scores:
        chosen = recommend(detectors, scores[own, "validation"], scores[name, "validation"], CORRUPTIONS)
        recommended = chosen.detector
        costs = rows_as(OodRegret, regret(result.ratios, recommended))
        tables["ood_recommended"] = chosen.aurocs.reset_index()
    if spec.corruptions:
        asked = [each for each in detectors if each.name in {recommended, "typicality"}]
        kinds = [f"{corruption}{severity}" for corruption in spec.corruptions for severity in SEVERITIES]
        power = corruption_power(asked, scores[own, "validation"], scores[name, "test"], kinds, settings)
        caught = _caught(power[power["detector"] == recommended])
        tables["ood_corruptions"] = power
    return Drift(recommended, costs, caught, tables)


def _caught(power: pd.DataFrame) -> list[Caught]:
    least = batch_sizes_that_catch(power)
    return [
        Caught(str(corruption), [int(m) if np.isfinite(m) else None for m in row])
        for corruption, row in zip(least.index, least.to_numpy(), strict=True)
    ]


def draw_drift(found: Drift, model: str, folder: Path) -> None:
    """A grid of what each detector that was asked catches."""
    power = found.tables.get("ood_corruptions")
    if power is not None:
        for detector, rows in power.groupby("detector", sort=False):
            title = f"Drift that {detector} notices under {model}"
            corruption_grid(rows, title).savefig(folder / f"corruptions-{detector}.png", dpi=120)
