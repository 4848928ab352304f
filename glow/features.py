"""Distances of images from training images in the features of an encoder (`glow.encoders`).

`FeatureReferences` keeps the features of training images, and computes two distances from them: that from a near
neighbour (Sun, Ming, Zhu & Li 2022, arXiv 2204.06507), and that from the Gaussian of the classes (Lee, Lee, Lee & Shin
2018, arXiv 1807.03888). For both, the features of an image are divided by their length: the length tells how much
structure an image has, and varies most (Mueller & Hein 2025, arXiv 2505.18032). `glow.ood.fit_detectors` makes
detectors of the distances, which take columns of a score table.

Shapes: N images, R training images, D features, K classes.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional as F

from glow.ood.detectors import MAHALANOBIS, NEAREST

Key = TypeVar("Key", bound=Hashable)

NEIGHBOURS = 10
"""Sun et al.'s k: the distance is that from this nearest training image."""

CANDIDATES = 5
"""Further neighbours whose similarity is computed in float64 too, because float32 may order them wrongly."""

COLUMN = "feature_"
"""The name of a column of a table of features, which a number follows."""

AT_ONCE = 20_000_000
"""Largest number of similarities, or of features of neighbours, in memory at a time: 80 or 160 MB."""


def features_table(features_ND: np.ndarray) -> pd.DataFrame:
    """Return features (N, D) as a table with one column per feature, and whether the features of an image are finite.

    Examples:
        >>> table = features_table(np.array([[1, 2], [np.nan, 4]], np.float16))
        >>> list(table), table["finite"].tolist(), features_in(table).shape
        (['feature_0', 'feature_1', 'finite'], [True, False], (2, 2))
    """
    table = pd.DataFrame(features_ND, columns=[f"{COLUMN}{column}" for column in range(features_ND.shape[1])])
    return table.assign(finite=np.isfinite(features_ND).all(1))


def features_in(table: pd.DataFrame) -> np.ndarray:
    """Return the features float16 (N, D) in a table that `features_table` made.

    Examples:
        >>> features_in(features_table(np.array([[1, 2]], np.float16)))
        array([[1., 2.]], dtype=float16)
    """
    return table[[name for name in table if str(name).startswith(COLUMN)]].to_numpy(np.float16)


def reference_positions(images: int, references: int) -> Tensor:
    """Return the positions of the training images whose features are references, the same at each call, in order.

    Args:
        images: number of training images.
        references: largest number of references.

    Examples:
        >>> reference_positions(3, references=10).tolist()
        [0, 1, 2]
    """
    return torch.randperm(images, generator=torch.Generator().manual_seed(0))[:references].sort().values


@dataclass(frozen=True)
class FeatureReferences:
    """The features of training images, with which other images are compared.

    Attributes:
        features_RD: float (R, D), features of the training images.
        whitening_DP: float64 (D, P), the inverse square root of the covariance of features within a class.
        means_KP: float64 (K, P), the mean of each class after whitening; that of all images if labels are unknown.
        digest: the digest of the encoder; "" if it is unknown.

    Examples:
        >>> rng = np.random.default_rng(0)
        >>> training = rng.normal(size=(100, 3)) + [5, 0, 0]
        >>> references = FeatureReferences.fit(training)
        >>> table = references.distances(np.array([[5.0, 0, 0], [0, 5, 0]]))
        >>> list(table), bool((table.iloc[1] > table.iloc[0]).all())
        (['feature_neighbours', 'feature_mahalanobis'], True)
    """

    features_RD: np.ndarray
    whitening_DP: np.ndarray
    means_KP: np.ndarray
    digest: str = ""

    @classmethod
    def fit(cls, features_RD: np.ndarray, labels_R: np.ndarray | None = None, digest: str = "") -> FeatureReferences:
        """Fit the references to the features of training images.

        The covariance is that of the features around the mean of their class. It is shrunk after Ledoit & Wolf (2004),
        so that fewer images than features suffice.

        Args:
            features_RD: float (R, D). Rows that are not finite are left out.
            labels_R: int (R,), the class of each image; None, or all equal, if classes are unknown.
            digest: the digest of the encoder.

        Raises:
            ValueError: if fewer than 2 rows are finite.

        Examples:
            >>> features = np.random.default_rng(0).normal(size=(50, 3))
            >>> FeatureReferences.fit(features, np.arange(50) % 2).means_KP.shape
            (2, 3)
        """
        from sklearn.covariance import LedoitWolf  # here, because it takes 0.5 s to import

        finite_R = np.isfinite(features_RD).all(1)
        if finite_R.sum() < 2:
            raise ValueError(f"{finite_R.sum()} training images have features that are finite: it takes 2")
        known_RD = _units(features_RD[finite_R], torch.float64).numpy()
        labels_R = np.zeros(len(known_RD), int) if labels_R is None else np.asarray(labels_R)[finite_R]
        _, classes_R = np.unique(labels_R, return_inverse=True)
        means_KD = np.stack([known_RD[classes_R == k].mean(0) for k in range(classes_R.max() + 1)])
        covariance = LedoitWolf(store_precision=False, assume_centered=True).fit(known_RD - means_KD[classes_R])
        values_D, vectors_DD = np.linalg.eigh(covariance.covariance_)
        kept_D = values_D > values_D[-1] * len(values_D) * np.finfo(float).eps  # features may be constant
        whitening_DP = vectors_DD[:, kept_D] / np.sqrt(values_D[kept_D])
        return cls(features_RD[finite_R], whitening_DP, means_KD @ whitening_DP, digest)

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> FeatureReferences:
        """Return the references that `to_arrays` has stored."""
        return cls(**{**arrays, "digest": arrays["digest"].tobytes().decode()})  # type: ignore[arg-type]

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Return all attributes as arrays, as `glow.ood.Calibration` keeps them."""
        return {**vars(self), "digest": np.frombuffer(self.digest.encode(), np.uint8)}

    def distances(self, features_ND: np.ndarray, *, own: bool = False) -> pd.DataFrame:
        """Return both distances of each image.

        Args:
            features_ND: float (N, D).
            own: whether these are the features that the references were fitted to, in the same order. Then no image is
                a neighbour of itself.

        Returns:
            N rows with the columns `NEAREST` and `MAHALANOBIS`; infinity for features that are not finite.
        """
        finite_N = np.isfinite(features_ND).all(1)
        table = pd.DataFrame(np.full((len(finite_N), 2), np.inf), columns=[NEAREST, MAHALANOBIS])
        known_ND = features_ND[finite_N]
        table.loc[finite_N, NEAREST] = self.from_neighbour(known_ND, own=own)
        table.loc[finite_N, MAHALANOBIS] = self.from_classes(known_ND)
        return table

    def from_neighbour(self, features_ND: np.ndarray, *, own: bool = False) -> np.ndarray:
        """Return 1 - cosine of the angle to the k-th nearest training image, (N,); k is `NEIGHBOURS`, but below R."""
        unit_ND, unit_RD = _units(features_ND), _units(self.features_RD)
        others = len(unit_RD) - own
        k, candidates = min(NEIGHBOURS, others), min(NEIGHBOURS + CANDIDATES, others)
        rows = max(1, AT_ONCE // max(others, candidates * unit_RD.shape[1]))
        found = [torch.empty(0, dtype=torch.float64)]
        for start in range(0, len(unit_ND), rows):
            part = slice(start, start + rows)
            similar_NR = unit_ND[part] @ unit_RD.T
            if own:
                similar_NR.diagonal(start).fill_(-torch.inf)
            nearest_NJ = similar_NR.topk(candidates).indices
            images_ND, near_NJD = (
                _units(each, torch.float64) for each in (features_ND[part], self.features_RD[nearest_NJ.numpy()])
            )
            found.append(1 - torch.einsum("nc,njc->nj", images_ND, near_NJD).topk(k).values[:, -1])
        return torch.cat(found).numpy()

    def from_classes(self, features_ND: np.ndarray) -> np.ndarray:
        """Return the squared Mahalanobis distance from the nearest class mean, (N,)."""
        whitened_NP = _units(features_ND, torch.float64) @ torch.from_numpy(self.whitening_DP)
        distance_NK = torch.cdist(
            whitened_NP, torch.from_numpy(self.means_KP), compute_mode="donot_use_mm_for_euclid_dist"
        )
        return (distance_NK.amin(1) ** 2).numpy()


def with_distances(
    tables: Mapping[Key, pd.DataFrame], features: Mapping[Key, np.ndarray], train: Key, digest: str
) -> tuple[FeatureReferences, dict[Key, pd.DataFrame]]:
    """Compare images with training images.

    Args:
        tables: score tables.
        features: the features of the images of each table; of the training images, those of `reference_positions`.
        train: the key of the training images.
        digest: the digest of the encoder.

    Returns:
        The references, and the tables with the columns of `FeatureReferences.distances`, which are NaN for training
        images that are not references.

    Raises:
        ValueError: if fewer than 2 training images have features that are finite.

    Examples:
        >>> features = np.random.default_rng(0).normal(size=(6, 3))
        >>> tables = {"train": pd.DataFrame({"label": [0] * 9}), "test": pd.DataFrame({"label": [0] * 6})}
        >>> _, found = with_distances(tables, {"train": features, "test": features}, "train", "")
        >>> found["train"]["feature_neighbours"].notna().sum(), found["test"]["feature_neighbours"].notna().sum()
        (np.int64(6), np.int64(6))
    """
    known = reference_positions(len(tables[train]), len(features[train])).numpy()
    references = FeatureReferences.fit(features[train], tables[train]["label"].to_numpy()[known], digest)
    found = {}
    for key, table in tables.items():
        distances = references.distances(features[key], own=key == train)
        distances.index = table.index[known] if key == train else table.index
        found[key] = table.assign(**distances.reindex(table.index))
    return references, found


def _units(features: np.ndarray, dtype: torch.dtype = torch.float32) -> Tensor:
    """Divide features (..., D) by their length."""
    return F.normalize(torch.from_numpy(features).to(dtype), dim=-1)
