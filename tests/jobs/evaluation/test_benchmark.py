"""`glowctl ood --benchmark` and `glowctl report` from end to end, on small data sets that are written here."""

import json
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from scipy.io import savemat
from sklearn import metrics
from sklearn.datasets import load_digits

from glow.ood import DETECTORS, fit_detectors
from glowctl.tracking.runs import find_run, read_table
from tests.glow.test_data import random_images, write_idx
from tests.jobs.command_line import check_quiet, glowctl
from tests.jobs.trained import train_into

pytestmark = [pytest.mark.ray, pytest.mark.nightly]

TESTED = {"fashion-mnist", "kmnist", "noise", "constant"}
"""What a model of MNIST can be compared with in the data root of `benchmark`."""

OTHER_SHAPES = {"digits": "1x8x8", "svhn": "3x32x32", "photos": "3x32x32"}
"""Data sets that are there too, but whose images have other shapes than the model's, 1x32x32."""


def write_data_sets(root: Path) -> None:
    """Write scikit-learn's digits as MNIST, variants of them as Fashion-MNIST and KMNIST, and coloured noise as SVHN.

    EMNIST is missing.
    """
    digits, labels = load_digits(return_X_y=True)
    large = np.pad(np.kron(digits.reshape(-1, 8, 8) * 15, np.ones((3, 3))), ((0, 0), (2, 2), (2, 2))).astype(np.uint8)
    train, test, others = slice(0, 1300), slice(1300, None), slice(1300, 1500)
    write_idx(root, large[train], labels[train])
    write_idx(root, large[test], labels[test], stem="t10k")
    write_idx(root, 255 - large[others], labels[others], "FashionMNIST/raw", "t10k")
    write_idx(root, np.roll(large[others], 4, axis=2), labels[others], "KMNIST/raw", "t10k")
    colours = random_images(32, 32, 3, 40)
    savemat(root / "test_32x32.mat", {"X": colours, "y": np.arange(40, dtype=np.uint8)[:, None] % 10 + 1})


@pytest.fixture(scope="module")
def benchmark(tmp_path_factory):
    """Train a tiny model, test it on all comparable data sets, and write a report."""
    folder = tmp_path_factory.mktemp("benchmark")
    write_data_sets(folder / "data")
    root = str(folder / "data")
    train_into(folder, dataset="mnist", per_class=50, download=False, data_root=root)
    asked = ("--benchmark", "--no-download", "--batch-sizes", "1,5", "--bootstraps", "500")
    done = glowctl(folder, "ood", *asked, "--json", GLOW_DATA_ROOT=root)
    check_quiet(done)
    events = [json.loads(line) for line in done.stdout.splitlines()]
    reported = glowctl(folder, "report", "--json", GLOW_DATA_ROOT=root)
    check_quiet(reported)
    written = json.loads(reported.stdout.splitlines()[-1])
    markdown = Path(written["markdown"]).read_text()
    return SimpleNamespace(uri=f"sqlite:///{folder}/mlflow.db", events=events, end=events[-1], markdown=markdown)


def table_after(markdown: str, caption: str) -> pd.DataFrame:
    """Return the table of a report whose caption contains these words."""
    _, _, rest = markdown.partition(caption)
    lines = [line for line in rest.split("**Table")[0].splitlines() if line.startswith("|")]
    head, _, *rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
    return pd.DataFrame(rows, columns=head)


def recorded_scores(benchmark) -> dict[tuple[str, str], pd.DataFrame]:
    """Return the score tables of the test by data set and split, as MLflow has them."""
    scored_by = json.loads(find_run(benchmark.uri, "glow", benchmark.end["run_id"]).data.tags["glow.scored_by"])
    tables = (read_table(benchmark.uri, at, f"scores/{key}.parquet") for key, at in scored_by.items())
    return {(table["dataset"].iloc[0], table["split"].iloc[0]): table for table in tables if table is not None}


def test_every_comparable_data_set_is_tested_and_no_other(benchmark):
    assert {row["dataset"] for row in benchmark.end["rows"]} == {"mnist", *TESTED}
    scored = {event["dataset"] for event in benchmark.events if event["event"] == "scored"}
    assert scored == {"mnist", "mnist-corrupted", *TESTED}


def test_data_sets_of_another_shape_are_named_with_it_and_missing_ones_too(benchmark):
    said = [event["message"] for event in benchmark.events if event["event"] == "absent"]
    [of_shape] = [message for message in said if "1x32x32" in message]
    assert dict(re.findall(r"([\w-]+) \((\d+x\d+x\d+)\)", of_shape)) == OTHER_SHAPES
    [missing] = [message for message in said if message != of_shape]
    assert "emnist-letters" in missing


def test_the_report_has_a_row_per_pair(benchmark):
    table = table_after(benchmark.markdown, "AUROC of each detector for single images")
    assert sorted(table["trained on → tested on"]) == sorted(f"mnist → {name}" for name in TESTED)
    assert set(table["recommended detector"]) == {benchmark.end["recommended"]}


def test_aurocs_of_the_report_are_scikit_learns_on_the_recorded_scores(benchmark):
    table = table_after(benchmark.markdown, "AUROC of each detector for single images")
    scores = recorded_scores(benchmark)
    train, own = scores["mnist", "train"], scores["mnist", "test"]
    statistics = {
        "typicality": lambda scores: abs(scores["nll"] - train["nll"].mean()),
        "likelihood": lambda scores: scores["nll"],
        "complexity": lambda scores: scores["nll"] / np.log(2) - scores["complexity"],
    }
    others = [detector for detector in fit_detectors(train) if detector.name in {*DETECTORS} - {*statistics}]
    statistics |= {detector.name: detector.image_scores for detector in others}
    assert set(statistics) == set(table.columns[3:-1])
    recorded = {(row["detector"], row["dataset"]): row for row in benchmark.end["rows"] if row["batch_size"] == 1}
    compared = 0
    for name in TESTED:
        far = scores[name, "test"]
        truth = np.repeat([0, 1], [len(own), len(far)])
        shown = table[table["trained on → tested on"] == f"mnist → {name}"].iloc[0]
        for detector, statistic in statistics.items():
            expected = metrics.roc_auc_score(truth, np.concatenate([statistic(own), statistic(far)]))
            auroc, low, high = map(float, re.findall(r"\d\.\d{4}", shown[detector]))
            assert auroc == pytest.approx(expected, abs=0.000051), (name, detector)
            row = recorded[detector, name]
            assert (low, high) == pytest.approx((row["auroc_low"], row["auroc_high"]), abs=0.000051)
            compared += 1
    assert compared == len(TESTED) * len(statistics)
