"""Evidence that a stream of images no longer belongs to a reference, valid at any time one looks.

`Monitor` bets on the scores of images in the order in which they arrive. While the scores come from one distribution,
that of the reference, independently of each other, its alarm has one of two guarantees:

- `alpha`: with probability alpha there is no false alarm, ever (Ville's inequality).
- `every`: there are on average at least so many images between false alarms (Shiryaev 1963, Roberts 1966; as an
  e-detector: Shin, Ramdas & Rinaldo 2024).

Neither holds for streams that change while they are healthy: night and day, images sorted by class, frames of a video.

Two references are available:

- ``growing``: each score is ranked among the reference and all earlier scores of the stream. With ties broken at
  random the ranks are independent and uniform (Vovk, Gammerman & Shafer 2005, theorem 8.1), so bets on them are exact.
  After a change the stream slowly becomes its own reference.
- ``fixed``: each score is ranked among the reference alone. Bets are fair for every distribution in a band around it
  (after Shaer, Bar, Prinster & Romano 2026, with the narrower band of `glow.ood.bands`). The probability with which the
  band misses the true distribution is part of 1 - alpha. A change within the band is never noticed.

The evidence is a mixture over detectors, the bets of `glow.ood.bets`, and the image s with which a bet begins,

    M_t = sum_j pi_j [ sum_{s <= t} w_s prod_{i=s}^t g_j(x_i) + cash_t ],

so that a late change is found nearly as quickly as an early one. With `alpha`, cash_t is what no bet has used yet, and
w_s = cash_{s-1} - cash_s. With `every`, w_s = 1 and there is no cash: the sum may grow by 1 per image, as that of
Shiryaev and Roberts does. The cost of an image does not depend on how many came before.

Shapes: n reference scores, B scores in a batch, D detectors, J bets per detector, C cells.
"""

from __future__ import annotations

import math
from copy import deepcopy
from dataclasses import dataclass
from typing import Literal

import numpy as np

from glow.ood.bands import spread_ranks, tail_bounds
from glow.ood.bets import log_bets
from glow.ood.calibration import as_largest, check_alpha

Reference = Literal["growing", "fixed"]

BAND_SHARE = 0.2
"""The share of 1 - alpha, or with `every` the probability, with which the band of a fixed reference may be wrong."""

MOST_EDGES = 10_000
"""A growing reference keeps at least this many scores one by one. Later ones are only counted between those."""

CHUNK = 256
"""Largest number of images that are compared with each other at once."""

RECENT = 10_000
"""Number of the latest images among which the start of a change is sought."""

MOVED = 9
"""Number of images that an alarm names."""

PATIENCE, DECAY = 200.0, 0.5
"""The cash after t images is (1 + t / `PATIENCE`) ** -`DECAY`."""


@dataclass(frozen=True)
class Alarm:
    """What is known when the evidence has reached the threshold. Images are counted from 1.

    Attributes:
        image: the image after which the alarm was raised.
        start: estimate of the first changed image: the median of the images with which the winning bets began.
        earliest: the 5 % quantile of these images. It is at most `RECENT` images before the alarm.
        latest: the 95 % quantile.
        detector: column of the detector whose bets have won most.
        higher: whether these are bets on higher scores.
        moved: the images since `earliest` that have contributed most evidence, the most important first.

    Examples:
        >>> monitor = Monitor(np.arange(1000.0)[:, None])
        >>> evidence = monitor.update(np.full((20, 1), 2000.0))
        >>> monitor.alarms[0].higher, monitor.alarms[0].detector, monitor.alarms[0].start
        (True, 0, 1)
    """

    image: int
    start: int
    earliest: int
    latest: int
    detector: int
    higher: bool
    moved: tuple[int, ...]


class Monitor:
    """Evidence against a stream of images, image by image.

    The evidence is the same, bit for bit, however the stream is divided into batches. A monitor can be pickled, and
    goes on where it was.

    Attributes:
        threshold: there is an alarm when the evidence, a logarithm to base 10, reaches this.
        images: number of images so far.
        alarms: all alarms. With `alpha` there is at most one before `acknowledge`, and the evidence goes on.
        alarmed: whether there was an alarm since the beginning or since `acknowledge`.

    Examples:
        >>> rng = np.random.default_rng(0)
        >>> monitor = Monitor(rng.normal(size=(1000, 1)), alpha=0.99)
        >>> healthy = monitor.update(rng.normal(size=(500, 1)))
        >>> monitor.alarms, bool(healthy.max() < monitor.threshold)
        ([], True)
        >>> changed = monitor.update(rng.normal(1.0, size=(100, 1)))
        >>> monitor.alarms[0].image, monitor.alarms[0].earliest, monitor.alarms[0].latest
        (531, 497, 509)
    """

    def __init__(
        self,
        reference_nD: np.ndarray,
        *,
        reference: Reference = "growing",
        alpha: float = 0.99,
        every: int | None = None,
        seed: int = 0,
    ) -> None:
        """Begin with no evidence.

        Args:
            reference_nD: float (n, D), scores of held-out or other healthy images, one column per detector.
            reference: which scores each new one is ranked among.
            alpha: the probability that a stream which belongs never has an alarm; not used with `every`.
            every: average number of images between false alarms, in place of `alpha`.
            seed: seed of the random order of equal scores.

        Raises:
            ValueError: if there are fewer than 2 reference scores or no detectors, or a setting is out of its range.
        """
        reference_nD = _columns(reference_nD)
        n, detectors = reference_nD.shape
        if n < 2:
            raise ValueError(f"a reference needs at least 2 images, not {n}")
        check_alpha(alpha)
        if every is not None and every < 2:
            raise ValueError(f"every must be at least 2 images, not {every}")
        if reference not in ("growing", "fixed"):
            raise ValueError(f"reference must be growing or fixed, not {reference!r}")
        failure = BAND_SHARE if reference == "fixed" else 0.0
        rate = 1 - alpha if every is None else 1 / every
        self.threshold = -math.log10(rate * (1 - failure))
        self.images = 0
        self.alarms: list[Alarm] = []
        self.alarmed = False
        self._every = every
        self._rng = np.random.default_rng(seed)
        kind = _Fixed if reference == "fixed" else _Growing
        wrong = failure * (1 - alpha if every is None else 1.0) / (2 * detectors)
        ties_nD = self._rng.random((n, detectors))
        self._ranks = [kind(_keys(reference_nD[:, d], ties_nD[:, d]), wrong) for d in range(detectors)]
        self._bets = np.stack([ranks.bets for ranks in self._ranks])  # (D, J, C)
        self._log_weight = -math.log(self._bets.shape[0] * self._bets.shape[1])
        self._recent = np.empty((0, detectors), np.int16)  # cells
        self._unused = deepcopy(self._ranks)
        self._restart()

    def acknowledge(self) -> None:
        """Begin anew with the reference alone, because the cause of the alarm is gone. The promise begins anew, too.

        Images are still counted from the beginning of the stream.

        Examples:
            >>> monitor = Monitor(np.arange(1000.0)[:, None])
            >>> evidence = monitor.update(np.full((20, 1), 2000.0))
            >>> monitor.acknowledge()
            >>> monitor.images, monitor.alarmed, len(monitor.alarms), float(monitor.update([[500.0]])[0]) < 0.1
            (20, False, 1, True)
        """
        self._ranks, self.alarmed = deepcopy(self._unused), False
        self._restart()

    def _restart(self) -> None:
        """Begin the bets anew."""
        bets = self._bets.shape[0] * self._bets.shape[1]
        self._began = self.images
        self._log_product = np.zeros(bets)  # log prod g since the beginning
        self._log_starts = np.full(bets, -np.inf)  # log sum_s w_s / (product before s)

    def update(self, scores_BD: np.ndarray) -> np.ndarray:
        """Place the bets on the next images.

        Args:
            scores_BD: float (B, D), scores in the order of arrival. A score that is not finite counts as larger than
                all others.

        Returns:
            float (B,), the evidence after each image, as a logarithm to base 10. With `every` the bets begin anew after
            an alarm.

        Raises:
            ValueError: if the number of detectors differs from that of the reference.
        """
        scores_BD = _columns(scores_BD)
        if scores_BD.shape[1] != len(self._ranks):
            raise ValueError(f"the reference has {len(self._ranks)} scores per image, not {scores_BD.shape[1]}")
        parts = [self._chunk(scores_BD[start : start + CHUNK]) for start in range(0, len(scores_BD), CHUNK)]
        return np.concatenate([np.empty(0), *parts])

    def _chunk(self, scores_BD: np.ndarray) -> np.ndarray:
        """Return the evidence after each image of a few."""
        random_BD2 = self._rng.random((*scores_BD.shape, 2))
        cells_BD = np.empty(scores_BD.shape, np.int16)
        for d, ranks in enumerate(self._ranks):
            cells_BD[:, d] = ranks.cells(_keys(scores_BD[:, d], random_BD2[:, d, 0]), random_BD2[:, d, 1])
        done, evidence = 0, []
        while done < len(cells_BD):
            part = self._bet(cells_BD[done:])
            evidence.append(part)
            done += len(part)
        return np.concatenate(evidence)

    def _bet(self, cells_BD: np.ndarray) -> np.ndarray:
        """Bet on images up to the last one, or to the first alarm after which the bets begin anew."""
        log_gains = self._log_gains(cells_BD)
        # Sums in the order of arrival, which do not depend on how the stream is divided.
        products = np.add.accumulate(np.concatenate([self._log_product[:, None], log_gains], 1), 1)
        times = self.images - self._began + np.arange(len(cells_BD) + 1)
        staked = self._log_stakes(times[:-1]) - products[:, :-1]
        starts = np.logaddexp.accumulate(np.concatenate([self._log_starts[:, None], staked], 1), 1)
        evidence = self._log_cash(times[1:])
        for row in products[:, 1:] + starts[:, 1:]:
            evidence = np.logaddexp(evidence, row + self._log_weight)
        evidence /= math.log(10)
        reached = np.flatnonzero(evidence >= self.threshold)
        until, again = len(cells_BD), False
        if len(reached) and (self._every is not None or not self.alarmed):
            first = int(reached[0]) + 1
            won = products[:, first] + starts[:, first]
            recent = np.concatenate([self._recent, cells_BD[:first]])[-RECENT:]
            self.alarms.append(self._alarm(self.images + first, recent, won))
            self.alarmed = True
            if again := self._every is not None:
                until = first
        self.images += until
        self._recent = np.concatenate([self._recent, cells_BD[:until]])[-RECENT:]
        self._log_product, self._log_starts = products[:, until].copy(), starts[:, until].copy()
        if again:
            self._restart()
        return evidence[:until]

    def _alarm(self, image: int, recent_ND: np.ndarray, won: np.ndarray) -> Alarm:
        """Describe an alarm from the cells of the last N images, and the logarithms of what the bets have won."""
        recent_ND = recent_ND[-(image - self._began) :]
        first = image - len(recent_ND) + 1
        gains = self._log_gains(recent_ND)
        since = np.cumsum(gains[:, ::-1], 1)[:, ::-1] + self._log_stakes(
            first - 1 - self._began + np.arange(len(recent_ND))
        )
        shares_N = np.exp(since - won.max()).sum(0)  # of bets that began with each image
        older = max(0.0, float(np.exp(won - won.max()).sum() - shares_N.sum()))
        reached = np.cumsum(shares_N) + older
        earliest, start, latest = (
            first + int(np.searchsorted(reached, share * reached[-1])) for share in (0.05, 0.5, 0.95)
        )
        shares_bets = np.exp(won - np.logaddexp.reduce(won))
        moved = np.argsort(-(shares_bets @ gains[:, earliest - first :]), kind="stable")[:MOVED] + earliest
        of_sides = shares_bets.reshape(len(self._ranks), 2, -1).sum(-1)
        detector, side = np.unravel_index(of_sides.argmax(), of_sides.shape)
        return Alarm(image, start, earliest, latest, int(detector), bool(side == 0), tuple(moved.tolist()))

    def _log_gains(self, cells_BD: np.ndarray) -> np.ndarray:
        """Return the logarithms of what each bet of each detector pays for images, (D J, B)."""
        return np.concatenate([bets[:, cells_BD[:, d]] for d, bets in enumerate(self._bets)])

    def _log_cash(self, times: np.ndarray) -> np.ndarray:
        """Return the logarithm of the evidence that no bet has used yet, after numbers of images."""
        if self._every is not None:
            return np.full(len(times), -np.inf)
        return -DECAY * np.log1p(times / PATIENCE)

    def _log_stakes(self, times: np.ndarray) -> np.ndarray:
        """Return log w_s of the bets that begin after numbers of images."""
        if self._every is not None:
            return np.zeros(len(times))
        cash = self._log_cash(times)
        return cash + np.log(-np.expm1(self._log_cash(times + 1) - cash))


def _columns(scores: np.ndarray) -> np.ndarray:
    """Return scores (N, D) with infinity for what is not finite."""
    scores = np.asarray(scores, float)
    if scores.ndim != 2 or scores.shape[1] == 0:
        raise ValueError(
            f"scores must have one row per image and one column per detector, not the shape {scores.shape}"
        )
    return as_largest(scores)


def _keys(scores: np.ndarray, ties: np.ndarray) -> np.ndarray:
    """Return numbers that are ordered as scores, and as `ties` where scores are equal: NumPy orders complex ones so."""
    keys = np.empty(len(scores), complex)
    keys.real, keys.imag = scores, ties
    return keys


class _Fixed:
    """The cells of a fixed reference: between some of its scores."""

    def __init__(self, keys_n: np.ndarray, wrong: float) -> None:
        n = len(keys_n)
        ranks_K = spread_ranks(n)
        self._edges = np.sort(keys_n)[ranks_K - 1]
        self.bets = log_bets(1 - ranks_K / (n + 1), tail_bounds(n, wrong))

    def cells(self, keys_B: np.ndarray, random_B: np.ndarray) -> np.ndarray:
        return np.searchsorted(self._edges, keys_B)


class _Growing:
    """The cells of a growing reference: between some shares of all scores so far.

    The scores so far are counted between edges. Up to `MOST_EDGES` each score is an edge, so that a new score has its
    rank among all. Then the edges stay, and a score gets a random rank among those between the same edges. The ranks
    are exactly uniform in both cases, because the counts follow Pólya's urn.
    """

    def __init__(self, keys_n: np.ndarray, wrong: float) -> None:
        self._edges = np.sort(keys_n)
        self._counts = np.ones(len(keys_n) + 1, int)
        upper = np.geomspace(0.5 / MOST_EDGES, 0.5, 60)
        tails = np.concatenate([1 - upper[:-1], upper[::-1]])
        self._shares = 1 - tails
        self.bets = log_bets(tails, tails)

    def cells(self, keys_B: np.ndarray, random_B: np.ndarray) -> np.ndarray:
        growing = max(0, MOST_EDGES - len(self._edges))
        if 0 < growing < len(keys_B):  # the edges stop growing at the same image however the stream is divided
            return np.concatenate(
                [self.cells(keys_B[:growing], random_B[:growing]), self.cells(keys_B[growing:], random_B[growing:])]
            )
        between = np.searchsorted(self._edges, keys_B)
        order = (np.argsort(np.argsort(keys_B)) if growing else between).astype(np.int32)
        earlier = np.tri(len(keys_B), k=-1, dtype=bool)
        lower_B = ((order[None] < order[:, None]) & earlier).sum(1)
        equal_B = ((order[None] == order[:, None]) & earlier).sum(1)
        before = np.concatenate([[0], np.cumsum(self._counts)])
        total_B = before[-1] + np.arange(len(keys_B))
        ranks_B = before[between] + lower_B + random_B * (self._counts[between] + equal_B)
        if growing:
            ascending = np.argsort(keys_B)
            self._edges = np.insert(self._edges, between[ascending], keys_B[ascending])
            self._counts = np.ones(len(self._edges) + 1, int)
        else:
            np.add.at(self._counts, between, 1)
        return np.searchsorted(self._shares, ranks_B / total_B)
