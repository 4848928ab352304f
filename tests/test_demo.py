"""The first command that a newcomer runs."""

import re
from pathlib import Path

import pytest

pytestmark = [pytest.mark.ray, pytest.mark.timing]


def test_it_compares_permutations_interpolates_and_tests(demo):
    ends = demo.ends
    compared = {row["permutation"]: row["bits_per_dim"] for row in ends["ablated"]["configurations"]}
    assert compared.keys() == {"1x1", "shuffle", "reverse"}
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


def test_it_takes_less_than_three_minutes(demo):
    assert demo.seconds < 180
