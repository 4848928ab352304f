"""Runs as the jobs write them, made in seconds without Ray, from which the tests make reports."""

import io
import json
import math
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from glowctl.specs.ablation import make_ablate_spec
from glowctl.specs.training import make_train_spec
from glowctl.tracking.record import Record

ENVIRONMENT = b'{"python": "3.11.7", "platform": "Linux", "packages": {"torch": "2.6"}, "machines": {}}'
NLLS = {"1x1": (1.60, 1.64, 1.58), "shuffle": (1.81, 1.86, 1.80)}
"""Permutation -> its test NLL at each seed."""


def png():
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "png")
    return file.getvalue()


class Store:
    """A store to which runs are written as the jobs do."""

    def __init__(self, folder: Path, empty: Path) -> None:
        self.folder, self.uri = folder, f"sqlite:///{folder}/mlflow.db"
        folder.mkdir(exist_ok=True)
        shutil.copy(empty, folder / "mlflow.db")

    def train(
        self, name, experiment="glow", test=1.7, parent=None, trial=None, images=None, state="FINISHED", **settings
    ):
        spec = make_train_spec("smoke", {"experiment": experiment, **settings})
        tags = {"glow.job": "train", "glow.dataset": spec.dataset, "glow.spec": json.dumps(spec.model_dump())}
        if parent is not None:
            tags |= {"glow.trial": trial, "mlflow.parentRunId": parent.run_id}
        record = Record.start(self.uri, experiment, name, tags, {})
        if images is not None:
            record.dataset((3, 1, *[spec.image_size or 8] * 2), f"{spec.dataset} test", images, "test", spec.dataset)
        if not math.isnan(test):
            for epoch in (1, 2):
                nlls = {"train/bits_per_dim": 1.1, "validation/bits_per_dim": 1.0, "test/bits_per_dim_by_epoch": 1.0}
                record.metrics({metric: value * test + 2 - epoch for metric, value in nlls.items()}, epoch)
        figures = {"test/bits_per_dim": test, "validation/best_bits_per_dim": test - 0.1, "best_epoch": 2}
        figures |= {"images_per_second_median": 1234, "parameters": 5678, "core_seconds": 21, "seconds": 10.5}
        record.metrics(figures, 2)
        self._artifacts(record, {"samples.png": png(), "environment.json": ENVIRONMENT})
        record.finish(state)
        return record

    def ablate(self, name, experiment="glow", seeds=3, nlls=NLLS, **settings):
        common = {"experiment": experiment, "permutations": ",".join(nlls), "seeds": seeds, **settings}
        spec = make_ablate_spec("smoke", common)
        tags = {"glow.job": "ablate", "glow.dataset": spec.train.dataset, "glow.spec": spec.to_json()}
        record = Record.start(self.uri, experiment, name, tags, {})
        record.dataset((3, 1, 8, 8), "digits test", "fingerprint", "test", "digits")
        trials = [
            self.train(
                f"{name} {permutation} {seed}",
                experiment,
                nlls[permutation][seed],
                record,
                spec.label({"permutation": permutation, "seed": seed}),
                permutation=permutation,
                seed=seed,
                **settings,
            )
            for permutation in nlls
            for seed in range(seeds)
        ]
        record.finish("FINISHED")
        return record, trials

    def evaluate(
        self, job, model, artifacts, experiment="glow", dataset="digits", metrics=None, more_tags=None, **settings
    ):
        tags = {"glow.job": job, "glow.dataset": dataset, "glow.spec": json.dumps(settings), "glow.model": model.name}
        tags |= {"glow.train_run": model.run_id, "mlflow.parentRunId": model.run_id} | (more_tags or {})
        record = Record.start(self.uri, experiment, f"{job} of {model.name}", tags, {})
        record.metrics(metrics or {})
        self._artifacts(record, artifacts)
        record.finish("FINISHED")
        return record

    def evaluate_all(self, model, dataset="digits", experiment="glow"):
        """Write one run of each kind of evaluation. Return them by kind."""
        images = np.zeros((4, 1, 8, 8), np.uint8)
        where = {"dataset": dataset, "experiment": experiment}
        samples = {"samples-T0.7.npy": images, "samples-T1.npy": images}
        rows = {"interpolation.npy": np.zeros((2, 5, 1, 8, 8), np.uint8), "interpolation.parquet": pairs()}
        return {
            "nll": self.evaluate("nll", model, {"nll.parquet": nll(dataset), "nll_histogram.png": png()}, **where),
            "sample": self.evaluate("sample", model, samples, temperatures=[0.7, 1.0], grid="2x2", **where),
            "interpolate": self.evaluate("interpolate", model, rows, metrics={"end_error": 0.001}, **where),
            "ood": self.evaluate("ood", model, ood_tables(dataset), alpha=0.99, **where),
        }

    def _artifacts(self, record, artifacts):
        folder = self.folder / "scratch"
        folder.mkdir()
        for name, content in artifacts.items():
            if isinstance(content, pd.DataFrame):
                content.to_parquet(folder / name)
            elif isinstance(content, np.ndarray):
                np.save(folder / name, content)
            else:
                (folder / name).write_bytes(content)
        record.folder(folder)
        shutil.rmtree(folder)


def nll(dataset):
    intervals = {"bits_per_dim": 3.456, "bits_per_dim_low": 3.4, "bits_per_dim_high": 3.5, "bits_per_dim_median": 3.3}
    return pd.DataFrame(
        [{"dataset": dataset, "images": 2000, **intervals, "bits_per_dim_original": 4.4, "non_finite": 0}]
    )


def pairs():
    return pd.DataFrame({"class_name": ["seven", "nine"], "from": [0, 1], "to": [2, 3], "ends_exact": [True, True]})


AUROCS = {
    ("typicality", "emnist-letters", 1): 0.9123,
    ("density", "emnist-letters", 1): 1.0,
    ("density", "noise", 1): 1.0,
}
"""(detector, data set, M) -> AUROC in `ood_tables`; all others are NaN."""


def with_auroc(value):
    """Return an AUROC with the ends of its interval."""
    return {"auroc": value, "auroc_low": value - 0.01, "auroc_high": value}


def ood_tables(own, as_expected=True):
    sets = {own: 0.0123, "emnist-letters": 0.8765, "noise": 1.0}
    ratios = [
        {"detector": detector, "dataset": name, "batch_size": m, "batches": 100, "ratio": ratio}
        | {"ratio_low": max(ratio - 0.01, 0), "ratio_high": min(ratio + 0.01, 1), "ratio_sd": math.nan}
        | with_auroc(AUROCS.get((detector, name, m), math.nan))
        for detector in ("typicality", "density")
        for m in (1, 10)
        for name, ratio in sets.items()
    ]
    table = pd.DataFrame(ratios)
    power = table[table["detector"] == "typicality"]
    classes = [
        {**row, "class_name": f"class {label}", "label": label} for row in power.to_dict("records") for label in (0, 1)
    ]
    control = power[power["dataset"] == own].assign(as_expected=as_expected)
    tables = {"ood": table, "ood_power": power, "ood_per_class": pd.DataFrame(classes), "ood_control": control}
    return {**{f"{name}.parquet": table for name, table in tables.items()}, "nll_histogram.png": png()}
