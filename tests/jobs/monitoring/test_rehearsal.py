"""The rehearsal of a watch tells an order that is not random from a reference that does not fit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from glow.ood import Monitor
from glowctl.display.events import Rehearsed
from glowctl.errors import JobError
from glowctl.monitoring import watch as job
from glowctl.monitoring.rehearsal import allowed_alarms, count_alarms, rehearse
from tests.jobs.monitoring.settings import spec_in


def rehearsed(store, **settings: Any) -> tuple[bool, Rehearsed]:
    shown: list[Any] = []
    passes = rehearse(job.prepare_rehearsal(spec_in(store, store, **settings)), shown.append)
    return passes, next(event for event in shown if isinstance(event, Rehearsed))


def test_images_in_random_order_pass(store):
    passes, event = rehearsed(store, source=str(store / "healthy"))
    assert (passes, event.images, event.alarms) == (True, 355, 0)


def test_images_sorted_by_class_would_alarm_because_of_their_order(store):
    passes, event = rehearsed(store, source=str(store / "sorted"), alpha=0.9)
    assert not passes
    assert event.alarms > event.shuffled == 0
    assert "--thin" in event.advice


def test_images_of_another_kind_need_another_reference(store):
    passes, event = rehearsed(store, source=str(store / "noise"))
    assert not passes
    assert event.shuffled > 0
    assert "--reference" in event.advice
    passes, event = rehearsed(store, source=str(store / "noise"), reference=str(store / "noise"))
    assert passes


def test_too_few_images_are_refused(store):
    with pytest.raises(JobError) as refusal:
        rehearsed(store, source=str(store / "healthy"), thin=100)
    assert refusal.value.code == "too-few-images"


class Work:
    """Settings of a watch with `every`."""

    def __init__(self, every: int) -> None:
        self.spec = type("Spec", (), {"guarantee": f"every={every}"})
        self._every = every

    def monitor(self, reference: np.ndarray) -> Monitor:
        return Monitor(reference, every=self._every)


def test_every_allows_as_many_alarms_as_it_promises():
    work: Any = Work(500)
    assert 4 <= allowed_alarms(work, 1000) <= 8
    rng = np.random.default_rng(0)
    alarms = count_alarms(work, rng.normal(size=(1000, 1)), rng.normal(size=(5000, 1)))
    assert alarms <= allowed_alarms(work, 5000)
    assert count_alarms(work, rng.normal(size=(1000, 1)), rng.normal(1, size=(500, 1))) > allowed_alarms(work, 500)
