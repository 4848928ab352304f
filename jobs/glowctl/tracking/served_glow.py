"""A Glow as an MLflow model: it takes a batch of images and returns their likelihoods and a typicality test.

`glowctl.tracking.models` copies this file and the package `glow` into every model that it saves. The file runs wherever
such a model is loaded, so it imports nothing else of this project.

Shapes: M images in the batch, C channels, H rows, W columns.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping
from functools import cache, lru_cache
from typing import Any

import mlflow
import numpy as np
import torch
from mlflow.exceptions import MlflowException
from mlflow.pyfunc import PythonModel

from glow.checkpoint import load_checkpoint
from glow.ood import Calibration, ImageCheck, TypicalityTest, flagged
from glow.scoring import score

IMAGES = "images"
DEFAULTS: dict[str, Any] = {"alpha": 0.99, "bootstraps": 10_000, "seed": 0, "first_index": 0, "fdr": 0.1}
"""Parameters of a request and their defaults."""

# Limits of what one request may cost: a bootstrap takes 16 bytes per draw, and its sorted statistics are kept.
MOST_BOOTSTRAPS = 100_000
MOST_DRAWS = 20_000_000
"""The most draws of one request: bootstraps times images in the batch."""

KEPT_TESTS = 16
"""Number of fitted tests that are cached."""


class ServedGlow(PythonModel):
    """A Glow that tests whether a batch of images is out-of-distribution (OOD), by `glow.ood.typicality`.

    Input: uint8 images (M, C, H, W) of the model's shape, or (M, H, W) if it has one channel. Nested lists of whole
    numbers from 0 to 255 are accepted too.

    A request can set these parameters:

    - ``alpha``: the share of in-distribution batches that should pass the test.
    - ``bootstraps``: for M > 1, the number of bootstrapped batches from which the threshold is estimated.
    - ``fdr``: the false discovery rate of the list ``flagged``.
    - ``seed``: for M > 1, the seed of all random draws behind the threshold and the p-value.
    - ``first_index``: position of the first image in its data set; the others follow it. Positions determine the
      dequantisation noise, so that images get the same scores as in `glowctl ood`. The seed of the noise cannot be set:
      the model always uses the seed with which its held-out scores were computed.

    Output:

    - ``nll`` in nats and ``bits_per_dim``: lists with one value per image.
    - ``p_value`` of the batch, and ``is_ood``: whether the p-value is at most 1 - alpha.
    - ``distance`` and ``threshold``, in nats: how far the mean NLL of the batch is from that of the training images,
      and the distance at which a batch becomes OOD. With few held-out images, ``is_ood`` can differ from the
      result of comparing ``distance`` with ``threshold``, because ``is_ood`` follows the exact p-value.
    - ``batch_size`` (M) and ``alpha``.
    - ``p_values``: the conformal p-value of each image, by the recommended detector (`glow.ood.recommend`), whose
      name is ``detector``; and ``flagged``: for each image, whether it is on the list of images that do
      not belong. `glowctl check` makes the same list.
    - ``detector_p_value``: the p-value of the batch by that detector.

    Values that are not finite become None, because JSON cannot hold them. In the p-value they count as the upper bound
    of the scores; a single image with such a value is OOD.

    Requests that cannot be tested raise MlflowException, which a scoring server answers with status 400.
    """

    def load_context(self, context: Any) -> None:
        """Read the model and the scores from which thresholds are estimated. MLflow calls this once.

        Args:
            context: MLflow's context, with the paths of the model's artifacts.
        """
        self._model = load_checkpoint(context.artifacts["checkpoint"]).eval().requires_grad_(False)
        self._calibration = Calibration.load(context.artifacts["scores"]).without_content()
        self._check = cache(lambda: ImageCheck(self._calibration))
        self._test = lru_cache(KEPT_TESTS)(self._fitted)
        self._scoring = threading.Lock()

    def predict(self, context: Any, model_input: np.ndarray, params: dict[str, Any] | None = None) -> dict[str, Any]:
        """Test one batch of images, as the docstring of the class describes.

        Args:
            context: MLflow's context; not used.
            model_input: the images, or a mapping {"images": images}, which is the form in which MLflow passes them.
            params: the parameters of the request; a parameter that is missing or None has its default.

        Returns:
            The output that the docstring of the class describes, ready for JSON.

        Raises:
            MlflowException: if the images or a parameter cannot be tested.
        """
        given = model_input[IMAGES] if isinstance(model_input, Mapping) else model_input
        asked = {**DEFAULTS, **{name: value for name, value in (params or {}).items() if value is not None}}
        _check_params(asked)
        images_MCHW = _images(given, self._model.config.image_shape)
        batch_size, alpha = len(images_MCHW), asked["alpha"]
        try:
            test = self._test(batch_size, alpha, asked["bootstraps"], asked["seed"])
            check = self._check()
        except ValueError as error:
            raise _refusal(str(error)) from None
        indices_M = asked["first_index"] + torch.arange(batch_size)
        # One batch at a time: each uses all cores, and two might not fit into memory.
        with self._scoring:
            table = score(self._model, images_MCHW, indices_N=indices_M, seed=self._calibration.noise_seed)
            p_values = check.p_values(table)[f"p_{check.detector}"].to_numpy()
            of_detector = check.batch_p_value(check.detector, table, asked["bootstraps"], asked["seed"])
        nll_1M = table["nll"].to_numpy()[None]
        return {
            "nll": [_json(nll) for nll in nll_1M[0]],
            "bits_per_dim": [_json(bits) for bits in table["bits_per_dim"]],
            "is_ood": bool(test.is_ood(nll_1M)[0]),
            "p_value": float(test.p_value(nll_1M)[0]),
            "distance": _json(test.statistic(nll_1M)[0]),
            "threshold": test.threshold.value,
            "batch_size": batch_size,
            "alpha": alpha,
            "p_values": p_values.tolist(),
            "flagged": flagged(p_values, asked["fdr"]).tolist(),
            "detector": check.detector,
            "detector_p_value": of_detector,
        }

    def _fitted(self, batch_size: int, alpha: float, bootstraps: int, seed: int) -> TypicalityTest:
        return TypicalityTest.fit(
            self._calibration.train_nll,
            self._calibration.held_out["nll"].to_numpy(),
            batch_size,
            alpha,
            _affordable(bootstraps, batch_size),
            seed,
            interval=False,
        )


def _refusal(sentence: str) -> MlflowException:
    return MlflowException.invalid_parameter_value(sentence)


def _json(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _check_params(asked: Mapping[str, Any]) -> None:
    for name in ("alpha", "fdr"):
        if not 0 < asked[name] < 1:
            raise _refusal(f"{name} must be between 0 and 1, both excluded, not {asked[name]}")
    for name, least, most in (
        ("bootstraps", 1, MOST_BOOTSTRAPS),
        ("seed", 0, 2**63 - 1),
        ("first_index", 0, 2**62),
    ):
        if not least <= asked[name] <= most:
            raise _refusal(f"{name} must be between {least} and {most}, not {asked[name]}")


def _affordable(bootstraps: int, batch_size: int) -> int:
    """Return `bootstraps`. Raise ValueError if they need more draws than one request may take."""
    if batch_size > 1 and bootstraps * batch_size > MOST_DRAWS:
        raise ValueError(
            f"{bootstraps} bootstraps of batches of {batch_size} are too many: give the parameter bootstraps as "
            f"{MOST_DRAWS // batch_size} at most, or a smaller batch"
        )
    return bootstraps


def _images(given: Any, image_shape: tuple[int, int, int]) -> torch.Tensor:
    """Return the images as uint8 (M, C, H, W). Raise MlflowException if they are not a batch of the model's shape."""
    array = _numbers(given)
    shape = ", ".join(map(str, image_shape))
    if array.size == 0:
        raise _refusal(f"the batch holds no image: send at least one of shape ({shape})")
    if array.ndim == 3 and image_shape[0] == 1:
        array = array[:, None]
    if array.shape[1:] != image_shape:
        raise _refusal(f"this Glow takes batches of shape (M, {shape}), not {np.shape(given)}")
    bad = array[(array < 0) | (array > 255) | (array != np.floor(array))]  # NaN is unequal to itself
    if len(bad):
        raise _refusal(f"pixels must be whole numbers from 0 to 255, not {bad[0]}")
    return torch.from_numpy(np.ascontiguousarray(array, np.uint8))


def _numbers(given: Any) -> np.ndarray:
    """Return an array of integers or floats. Raise MlflowException if the input is ragged or has other values."""
    try:
        # A scoring server passes arrays of objects, which can be ragged.
        array = np.array(given.tolist() if isinstance(given, np.ndarray) and given.dtype == object else given)
    except ValueError:
        raise _refusal("the images are ragged: all must have the same number of channels, rows and columns") from None
    if array.size and array.dtype.kind not in "iuf":
        raise _refusal("pixels must be whole numbers from 0 to 255, and some of these are not")
    return array


mlflow.models.set_model(ServedGlow())
