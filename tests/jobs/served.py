"""A tiny Glow to be served by MLflow, requests to it, and the answers that the library itself gives."""

import json
import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests
import torch

from glow import FitConfig, Glow, GlowConfig, TypicalityTest, fit, load_dataset, save_checkpoint, score
from glow.checkpoint import save_training_state
from glow.datasets import open_dataset
from glow.datasets.corruptions import for_recommendation
from glow.ood import Calibration, ImageCheck, flagged
from glowctl.tracking.models import save_model
from tests.jobs.command_line import environment, wait_until

ROOT = Path(__file__).parents[2]
NOISE_SEED = 3
NOT_THIS_TYPE = "Can not safely convert"
"""MLflow's own words for a param of another type than the model's signature has."""

IMAGE = [[[8 * row + column for column in range(8)] for row in range(8)]]


class Trained:
    """A tiny Glow of the digits, with the scores of its training and validation images."""

    def __init__(self, folder):
        train, _ = load_dataset("digits", "train")
        validation, _ = load_dataset("digits", "validation")
        self.test, _ = load_dataset("digits", "test")
        torch.manual_seed(0)
        self.model = Glow(GlowConfig(image_shape=(1, 8, 8), levels=2, depth=2, width=16, scale="bounded"))
        fit(self.model, train, config=FitConfig(epochs=2, batch_size=64, warmup_steps=10, learning_rate=3e-3))
        corrupted = for_recommendation(open_dataset("digits", "validation"))
        of_train, of_validation, of_corrupted = (
            score(self.model, images, labels, seed=NOISE_SEED)
            for images, labels in ((train, None), (validation, None), (corrupted.images(), corrupted.labels))
        )
        self.calibration = Calibration.of(of_train, of_validation, of_corrupted, NOISE_SEED)
        self.checkpoint = save_checkpoint(self.model, folder / "checkpoint")
        save_training_state({"epoch": 2}, self.checkpoint)  # pickled, and therefore no part of a model
        self.images = self.test[:12].numpy()

    def save(self, folder):
        """Save it as an MLflow model in `folder`, and return the folder."""
        save_model(
            folder,
            self.checkpoint,
            self.calibration,
            self.images[:2],
            {"glow.dataset": "digits"},
        )
        return folder

    def expected(self, images, alpha=0.99, bootstraps=10_000, seed=0, first_index=0, fdr=0.1):
        """Return the answer of the library itself for a batch."""
        m = len(images)
        table = score(self.model, torch.from_numpy(images), indices_N=first_index + torch.arange(m), seed=NOISE_SEED)
        held_out_nll = self.calibration.held_out["nll"].to_numpy()
        test = TypicalityTest.fit(self.calibration.train_nll, held_out_nll, m, alpha, bootstraps, seed)
        check = ImageCheck(self.calibration)
        p_values = check.p_values(table)[f"p_{check.detector}"].to_numpy()
        nll = table["nll"].to_numpy()
        return {
            "nll": nll.tolist(),
            "bits_per_dim": table["bits_per_dim"].tolist(),
            "is_ood": bool(test.is_ood(nll[None])[0]),
            "p_value": float(test.p_value(nll[None])[0]),
            "distance": float(test.statistic(nll[None])[0]),
            "threshold": test.threshold.value,
            "batch_size": m,
            "alpha": alpha,
            "p_values": p_values.tolist(),
            "flagged": flagged(p_values, fdr).tolist(),
            "detector": check.detector,
            "detector_p_value": check.batch_p_value(check.detector, table, bootstraps, seed),
        }


def load(uri):
    import mlflow.pyfunc

    return mlflow.pyfunc.load_model(str(uri))


@contextmanager
def default_store(uri):
    """Make `uri` the default store, as MLFLOW_TRACKING_URI does."""
    import mlflow

    mlflow.set_tracking_uri(uri)
    try:
        yield
    finally:
        mlflow.set_tracking_uri(None)  # type: ignore[arg-type] # MLflow takes None; its types do not
        os.environ.pop("MLFLOW_TRACKING_URI", None)


@contextmanager
def running(command, alive_at, **changes):
    """Run a server in a separate process group until the end of the block."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    process = subprocess.Popen(
        command,
        env=environment(PATH=path, **changes),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )

    def answers():
        assert process.poll() is None, "the server has ended"
        try:
            return requests.get(alive_at, timeout=5).ok
        except requests.RequestException:
            return False

    try:
        wait_until(answers)
        yield
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def altered(value):
    image = json.loads(json.dumps(IMAGE))
    image[0][3][3] = value
    return [image]


# Requests that are refused by the library and over HTTP: the images, the params, and parts of the message.
BAD = {
    "empty batch": ([], {}, ["no image", "(1, 8, 8)"]),
    "empty image": ([[]], {}, ["no image"]),
    "smaller images": ([[[[1, 2], [3, 4]]]], {}, ["(M, 1, 8, 8)", "not (1, 1, 2, 2)"]),
    "three channels": ([IMAGE * 3], {}, ["(M, 1, 8, 8)", "not (1, 3, 8, 8)"]),
    "one row": (IMAGE[0], {}, ["(M, 1, 8, 8)", "not (8, 8)"]),
    "ragged rows": ([[[[1, 2], [3]]]], {}, ["ragged"]),
    "ragged images": ([IMAGE, [IMAGE[0][:5]]], {}, ["ragged"]),
    "a number among images": ([IMAGE, 5], {}, ["ragged"]),
    "too large": (altered(300), {}, ["pixels", "0 to 255", "not 300"]),
    "larger than int64": (altered(2**70), {}, ["pixels", "0 to 255"]),
    "negative": (altered(-1), {}, ["pixels", "0 to 255", "not -1"]),
    "fraction": (altered(1.5), {}, ["pixels", "0 to 255", "not 1.5"]),
    "not a number": (altered(float("nan")), {}, ["pixels", "0 to 255", "not nan"]),
    "infinite": (altered(float("inf")), {}, ["pixels", "0 to 255", "not inf"]),
    "digits as text": (altered("12"), {}, ["pixels", "0 to 255"]),
    "null": (altered(None), {}, ["pixels", "0 to 255"]),
    "dict": (altered({"a": 1}), {}, ["pixels", "0 to 255"]),
    "alpha 0": ([IMAGE], {"alpha": 0}, ["alpha", "not 0.0"]),
    "alpha 1": ([IMAGE], {"alpha": 1.0}, ["alpha", "not 1.0"]),
    "alpha NaN": ([IMAGE], {"alpha": float("nan")}, ["alpha", "not nan"]),
    "fdr 1": ([IMAGE], {"fdr": 1.0}, ["fdr", "not 1.0"]),
    "alpha as text": ([IMAGE], {"alpha": "0.9"}, [NOT_THIS_TYPE, "alpha"]),
    "alpha too fine": ([IMAGE], {"alpha": 0.999}, ["176", "0.999", "takes 999"]),
    "batch too large": ([IMAGE] * 200, {}, ["176", "takes 200"]),
    "no bootstraps": ([IMAGE], {"bootstraps": 0}, ["bootstraps", "1 and 100000", "not 0"]),
    "too many bootstraps": ([IMAGE], {"bootstraps": 10**9}, ["bootstraps", "1 and 100000", "not 1000000000"]),
    "half a bootstrap": ([IMAGE] * 2, {"bootstraps": 1.5}, [NOT_THIS_TYPE, "bootstraps"]),
    "negative seed": ([IMAGE], {"seed": -1}, ["seed", "not -1"]),
    "negative index": ([IMAGE], {"first_index": -1}, ["first_index", "not -1"]),
    "index beyond int64": ([IMAGE], {"first_index": 2**63}, ["first_index", str(2**63)]),
}
every_bad = pytest.mark.parametrize(("given", "params", "facts"), BAD.values(), ids=BAD)


def same(found, expected):
    """Return whether two predictions are equal, up to the rounding of float32 in another process."""
    return found.keys() == expected.keys() and all(
        found[name] == (value if isinstance(value, bool | str) else pytest.approx(value, rel=1e-5))
        for name, value in expected.items()
    )
