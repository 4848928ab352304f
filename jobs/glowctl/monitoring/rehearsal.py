"""`glowctl watch --rehearse`: how often a watch would have raised an alarm on images that belong, and what to do.

The guarantees of a watch hold for images that come independently from the distribution of the reference. Images of a
real stream often do not: they come in the order of their classes, or by day and by night. The rehearsal tells such an
order from a reference that does not fit, because in random order only the latter still raises alarms.
"""

from __future__ import annotations

import numpy as np
from scipy import special

from glowctl.display.events import Rehearsed, Show
from glowctl.errors import JobError
from glowctl.evaluation.check import opened, scored
from glowctl.monitoring.watch import WatchWork, scores_of
from glowctl.specs.monitoring import read_guarantee

THINNED = (2, 5, 10, 20, 50, 100)
"""Values of ``--thin`` that are tried."""

STARTS = 10
"""Largest number of first images from which each of these is tried."""

LEAST = 50
"""Least number of images that must be left by ``--thin``, or in each half, for a trial to tell anything."""

STEP = 500
"""Number of images after which a trial looks for an alarm."""

SURE = 0.99
"""Probability with which a watch that keeps its promise has at most the allowed number of alarms."""


def rehearse(work: WatchWork, show: Show) -> bool:
    """Run through images that belong, in the order of their names, and say how often there would have been an alarm.

    Args:
        work: the settings, whose source is the images.
        show: receives the result.

    Returns:
        Whether the alarms are as few as the guarantee promises.

    Raises:
        JobError: if there are too few images.
    """
    check = work.judge(show)
    parts = opened(work.evaluation, [work.spec.source])
    scores = scores_of(check, scored(work.scorer, parts, show, work.spec.source).table)
    reference = scores_of(check, check.calibration.held_out)
    thinned, rng = scores[:: work.spec.thin], np.random.default_rng(work.spec.seed)
    if len(thinned) < LEAST:
        raise JobError(
            f"{work.spec.source} has only {len(thinned)} images for a rehearsal",
            remedy=f"give at least {LEAST} images that belong, or a smaller --thin",
            code="too-few-images",
        )
    alarms, allowed = count_alarms(work, reference, thinned), allowed_alarms(work, len(thinned))
    shuffled = count_alarms(work, reference, rng.permutation(thinned))
    passes = alarms <= allowed
    advice = "start the watch" if passes else _advice(work, reference, scores, shuffled > allowed, rng)
    show(Rehearsed(len(thinned), alarms, allowed, shuffled, passes, advice))
    return passes


def count_alarms(work: WatchWork, reference_nD: np.ndarray, scores_ND: np.ndarray) -> int:
    """Return the number of alarms in a stream, where the watch begins anew after each."""
    alarms = start = 0
    while start < len(scores_ND):
        monitor = work.monitor(reference_nD)
        stop = start
        while stop < len(scores_ND) and not monitor.alarms:
            monitor.update(scores_ND[stop : stop + STEP])
            stop += STEP
        if not monitor.alarms:
            break
        alarms += 1
        start += monitor.alarms[0].image
    return alarms


def allowed_alarms(work: WatchWork, images: int) -> int:
    """Return the number of alarms that a watch which keeps its promise exceeds with a probability below 1 - `SURE`."""
    every = read_guarantee(work.spec.guarantee)
    if every is None:
        return 0
    return next(k for k in range(images) if special.pdtr(k, images / every) >= SURE)


def _advice(work: WatchWork, reference: np.ndarray, scores: np.ndarray, unfit: bool, rng: np.random.Generator) -> str:
    """Return what to do about alarms.

    Args:
        work: the settings.
        reference: scores of the reference.
        scores: scores of the images, in their order.
        unfit: whether there are alarms in random order, too.
        rng: the source of randomness.
    """

    def passes(reference: np.ndarray, stream: np.ndarray) -> bool:
        return len(stream) >= LEAST and count_alarms(work, reference, stream) <= allowed_alarms(work, len(stream))

    if unfit:
        one, other = np.array_split(rng.permutation(scores), 2)
        if passes(one, other):
            return f"these images differ from the reference: watch with --reference {work.spec.source}"
        return "these images differ from the reference: give images of the same kind with --reference"
    for thin in THINNED:
        if thin > work.spec.thin and all(passes(reference, scores[start::thin]) for start in range(min(thin, STARTS))):
            return f"neighbouring images resemble each other: watch with --thin {thin}"
    return (
        "the stream changes while it is healthy, as if it were sorted, and no --thin up to "
        f"{THINNED[-1]} helps: mix its images, or watch each of its parts separately with a --reference of that part"
    )
