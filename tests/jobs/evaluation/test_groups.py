"""The means over near and far data sets, and the sentence on data sets that alone were resized."""

import json

import numpy as np
import pandas as pd
import pytest

from glow.datasets import DatasetInfo
from glow.ood import group_means
from glowctl.evaluation import ood
from glowctl.specs.base import validated
from glowctl.specs.evaluation import OodSpec
from glowctl.tracking.runs import find_run
from tests.jobs.evaluation.small_model import record_scores, save_model, where
from tests.jobs.evaluation.test_encoder import save_images

MEASURES = ["auroc", "aupr", "fpr95"]


def test_a_mean_counts_each_data_set_once_and_a_group_that_was_not_wholly_tested_has_none():
    rng = np.random.default_rng(0)
    keys = pd.MultiIndex.from_product([["joint", "levels"], ["a", "b", "c"], [1, 5]])
    ratios = keys.to_frame(index=False, name=["detector", "dataset", "batch_size"])
    ratios[MEASURES] = rng.uniform(size=(len(ratios), 3))
    means = group_means(ratios, {"near": ["a"], "far": ["b", "c"], "elsewhere": ["a", "d"], "none": []})
    assert set(means["dataset"]) == {"near, mean of 1", "far, mean of 2"}
    for row in means.to_dict("records"):
        names = ["a"] if row["dataset"].startswith("near") else ["b", "c"]
        same = (ratios["detector"] == row["detector"]) & (ratios["batch_size"] == row["batch_size"])
        of = ratios[same & ratios["dataset"].isin(names)]
        assert [row[name] for name in MEASURES] == pytest.approx(of[MEASURES].mean().tolist())


@pytest.mark.parametrize(
    ("others", "near", "groups"),
    [
        (["cifar100", "svhn", "noise"], ["cifar100"], {"near": ["cifar100"], "far": ["svhn"]}),
        (["arrays:/d/a", "svhn"], ["arrays:/d/a"], {"near": ["arrays-a"], "far": ["svhn"]}),
        (["svhn", "noise"], ["cifar100"], {}),
        (["cifar100", "noise"], ["cifar100"], {}),
        (["svhn"], [], {}),
    ],
)
def test_a_group_is_near_or_far_and_neither_has_generated_images(others, near, groups):
    assert ood._groups(others, near) == groups


def info(name, before, after):
    return DatasetInfo(name, (3, before, before), (3, after, after), (), ("test",))


@pytest.mark.parametrize(
    ("own", "other", "said"),
    [
        (32, 64, "cifar10 is not shrunk, these are: tiny (3x64x64)"),
        (64, 32, "cifar10 is shrunk to the model's size and these are not: tiny (3x32x32)"),
        (64, 96, None),
        (32, 28, None),
    ],
)
def test_a_pair_of_which_one_side_was_resized_is_named(own, other, said):
    infos = {"cifar10": info("cifar10", own, 32), "tiny": info("tiny", other, 32), "noise": info("noise", own, 32)}
    assert [said in sentence for sentence in ood._unequal_resizing("cifar10", infos)] == (
        [] if said is None else [True]
    )


@pytest.mark.slow
def test_the_means_are_on_the_screen_in_the_tables_and_in_the_metrics(tmp_path, one_process):
    own = save_images(tmp_path / "own", {"train": 120, "validation": 60, "test": 60})
    near = save_images(tmp_path / "near", {"test": 60}, noise=30)
    far = save_images(tmp_path / "far", {"test": 60}, noise=5)
    model = save_model(tmp_path / "model")
    settings = {
        "model": str(tmp_path / "model"),
        "trained_on": own,
        "ood_datasets": far,
        "near": near,
        "batch_sizes": "1,3",
        "alpha": 0.9,
        "bootstraps": 100,
        **where(tmp_path),
    }
    work = ood.prepare(validated(OodSpec, settings))
    assert work.others == ["arrays-near", "arrays-far"]
    record_scores(work.evaluation, model, "before")
    flags = [part for name, value in settings.items() for part in (f"--{name.replace('_', '-')}", str(value))]
    plain = one_process(tmp_path, "ood", *flags)
    assert "near, mean of 1" in plain.stdout, plain.stderr
    done = one_process(tmp_path, "ood", *flags, "--json")
    end = json.loads(done.stdout.splitlines()[-1])
    rows = {(row["detector"], row["dataset"], row["batch_size"]): row for row in [*end["rows"], *end["groups"]]}
    metrics = find_run(settings["tracking_uri"], "glow", end["run_id"]).data.metrics
    for group, dataset in (("near", "arrays-near"), ("far", "arrays-far")):
        mean, single = (rows["joint", name, 3]["auroc"] for name in (f"{group}, mean of 1", dataset))
        assert mean == single == metrics[f"joint/auroc/{group}/M3"]
    again = one_process(tmp_path, "show", end["run_id"], "--tracking-uri", settings["tracking_uri"])
    assert again.returncode == 0, again.stderr
