"""The first command that a newcomer runs."""

import re
import statistics
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest

from glow import Glow, Trainer, load_dataset
from glow.config import Permutation
from glowctl.specs.training import make_train_spec

pytestmark = [pytest.mark.ray, pytest.mark.timing]


def test_it_compares_permutations_interpolates_and_tests(demo):
    ends = demo.ends
    compared = {row["permutation"]: row["bits_per_dim"] for row in ends["ablated"]["configurations"]}
    assert compared.keys() == set(get_args(Permutation))
    assert max(compared.values()) < 6.2  # 8 bits is what an image of noise takes
    assert Path(ends["ablated"]["place"], "nll_by_epoch.png").is_file()
    assert re.match("glowctl ui", ends["ablated"]["open_with"])
    permutation, seed = ends["ablated"]["best"]["trial"].split()
    assert re.fullmatch(f"train digits {permutation} .* {seed}", ends["evaluating"]["model"])
    assert ends["interpolation"]["inexact_rows"] == 0
    assert Path(ends["interpolation"]["picture"]).is_file()
    called = {(r["dataset"], r["batch_size"]): r["ratio"] for r in ends["ood"]["rows"] if r["detector"] == "typicality"}
    assert called["noise", 1] == 1
    assert called["photos", 10] > 0.9
    assert called["digits", 1] < 0.05


def seconds_an_epoch() -> float:
    """Return the time of one epoch of a training of the demo on one core of this machine: the median of four."""
    spec = make_train_spec("demo", {})
    images, labels = load_dataset("digits")
    config = replace(spec.fit_config(), epochs=4)
    trainer = Trainer(Glow(spec.glow_config((1, 8, 8), 10)), images, labels, config=config)
    return statistics.median(result.seconds for result in trainer.epochs())


def test_its_trainings_run_side_by_side_and_the_rest_takes_a_minute(demo):
    """At most what one core needs for all trainings one after the other, and a minute; on 2 cores the trainings take
    half of that. How fast a core is, this machine says."""
    trainings = 3 * len(get_args(Permutation)) * make_train_spec("demo", {}).epochs * seconds_an_epoch()
    assert demo.seconds < trainings + 60
