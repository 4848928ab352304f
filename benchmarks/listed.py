"""How many strangers the list of `glowctl check` finds among real images, and how many images it lists wrongly.

    python -m benchmarks.listed MODEL --own mnist --others emnist-letters

MODEL is the folder of a checkpoint that glowctl train wrote. Batches of M test images are drawn, some of which are
replaced by images of another data set. For each detector and share of strangers, the script prints the realised false
discovery rate with its standard error, the share of strangers that are listed, and the share of batches that are found
not to belong at alpha = 0.99.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd

from glow import load_checkpoint, load_dataset, score
from glow.ood import Calibration, ImageCheck, flagged
from glowctl.tracking.models import SCORES_FILE

SHARES = (0.0, 0.01, 0.1, 0.5)


def scores_of(model_folder: Path, name: str, images: int, noise_seed: int) -> pd.DataFrame:
    """Score random test images of a data set."""
    model = load_checkpoint(model_folder)
    all_images, _ = load_dataset(name, "test", image_shape=model.config.image_shape)
    chosen = np.random.default_rng(0).permutation(len(all_images))[:images]
    return score(model, all_images[chosen], seed=noise_seed)


def main() -> None:
    """Score the images once, then print a line per detector and share of strangers."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.listed", description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--own", default="mnist")
    parser.add_argument("--others", default="emnist-letters")
    parser.add_argument("--images", type=int, default=2000, help="images of each data set that are scored")
    parser.add_argument("--batch", type=int, default=500, help="M")
    parser.add_argument("--batches", type=int, default=100, help="batches per line")
    parser.add_argument("--fdr", type=float, default=0.1)
    options = parser.parse_args()
    calibration = Calibration.load(options.model / SCORES_FILE)
    own, others = (
        scores_of(options.model, name, options.images, calibration.noise_seed) for name in (options.own, options.others)
    )
    print(f"{len(calibration.held_out):,} held-out images, recommended: {calibration.recommended}")
    print("detector    strangers, %    FDR, %  standard error  found, %  batches found strange, %")
    for detector in dict.fromkeys(("typicality", calibration.recommended)):
        check = ImageCheck(calibration, detector)
        p_own, p_others = (check.p_values(table)[f"p_{detector}"].to_numpy() for table in (own, others))
        for share in SHARES:
            rng = np.random.default_rng(0)
            false, found, strange = [], [], []
            for batch in range(options.batches):
                number = round(share * options.batch)
                mine = rng.choice(len(own), options.batch - number, replace=False)
                theirs = rng.choice(len(others), number, replace=False)
                listed = flagged(np.concatenate([p_own[mine], p_others[theirs]]), options.fdr)
                false.append(listed[: len(mine)].sum() / max(1, listed.sum()))
                found.append(listed[len(mine) :].mean() if number else np.nan)
                if batch < options.batches // 5:  # which takes longer than the list
                    table = pd.concat([own.iloc[mine], others.iloc[theirs]], ignore_index=True)
                    strange.append(not check(table, fdr=options.fdr).belongs)
            error = np.std(false, ddof=1) / len(false) ** 0.5
            figures = (100 * np.mean(false), 100 * error, 100 * np.mean(found), 100 * np.mean(strange))
            print(f"{detector:11s} {100 * share:11.0f}  {figures[0]:8.2f}  {figures[1]:14.2f}", end="")
            print(f"  {figures[2]:8.1f}  {figures[3]:24.0f}", flush=True)


if __name__ == "__main__":
    main()
