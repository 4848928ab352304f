"""The plan by which checkpoints are saved, against a clock that the tests set. No Ray."""

import pytest
import torch

from glowctl.specs.base import every
from glowctl.training import saving
from glowctl.training.saving import DEPARTURE_S, LAST_SAVE_S, LOOK_S, SavingPlan

SAVE_S = 0.5


class Clock:
    """A clock in the place of the module `time`. Sleeping only sets it."""

    def __init__(self):
        self.now = 1000.0
        self.slept = []

    def time(self):
        return self.now

    def monotonic(self):
        return self.now

    def sleep(self, seconds):
        self.slept.append(seconds)
        self.now += seconds


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(saving, "time", clock)
    return clock


def saved_after(clock, interval, steps, notices=None, step_s=1.0, save_s=SAVE_S, urgent=None):
    """Train for some steps of `step_s` seconds, and return the steps and times at which a checkpoint was saved."""
    notices = notices or {}
    plan = SavingPlan(every(interval), lambda: notice(), torch.device("cpu"))
    begun = clock.now
    noticed = [None]

    def notice():
        return noticed[0]

    saved = []
    for step in range(1, steps + 1):
        clock.now += step_s
        noticed[0] = notices.get(step, noticed[0])
        if plan.after_step(step):
            saved.append((step, clock.now - begun))
            if urgent is not None:
                urgent.append(plan.urgent)
            clock.now += save_s if plan.urgent else SAVE_S
            plan.saved()
    return saved


@pytest.mark.parametrize(("interval", "steps"), [("2", []), ("15steps", [15, 30]), ("12s", [12, 24, 36])])
def test_an_interval_is_in_epochs_steps_or_seconds(clock, interval, steps):
    assert [step for step, _ in saved_after(clock, interval, 40)] == steps


def test_epochs_are_saved_as_the_interval_says(clock):
    def saves(interval):
        plan = SavingPlan(every(interval), lambda: None, torch.device("cpu"))
        return [epoch for epoch in range(1, 6) if plan.after_epoch(epoch, last=epoch == 5)]

    assert saves("2") == [2, 4, 5]
    assert saves("10steps") == saves("1m") == [1, 2, 3, 4, 5]


def test_a_notice_without_a_time_saves_once(clock):
    assert [step for step, _ in saved_after(clock, "1000", 100, {5: 0.0})] == [5]
    assert clock.slept == []


@pytest.mark.parametrize("step_s", [0.01, 0.2, 1.0, 8.0])
def test_a_machine_that_goes_costs_no_step(clock, step_s):
    """The last checkpoint is complete before the machine goes, and no step follows it until then."""
    goes_at = clock.now + 120
    saved = saved_after(clock, "1000", int(150 / step_s), {5: goes_at}, step_s)
    (first, _), (_, last) = saved[:2]
    assert (first - 5) * step_s <= LOOK_S
    assert last + SAVE_S < 120
    assert 120 - last <= LAST_SAVE_S + 3 * max(LOOK_S, step_s) + 2 * SAVE_S
    assert clock.slept == [pytest.approx(120 + DEPARTURE_S - last - SAVE_S)]
    assert len(saved) == 2  # the machine stayed: the training continues, without further checkpoints


def test_a_notice_is_seen_at_the_end_of_an_epoch_whatever_the_interval(clock):
    times = [None]
    plan = SavingPlan(every("10"), lambda: times[0], torch.device("cpu"))
    assert not plan.after_epoch(1, last=False)
    times[0] = clock.now + 1e6
    assert plan.after_epoch(2, last=False)
    assert plan.urgent
    plan.saved()
    assert not plan.after_epoch(3, last=False)


def test_a_second_notice_saves_again(clock):
    saved = saved_after(clock, "1000", 60, {5: 0.0, 25: clock.now + 1e6})
    assert [step for step, _ in saved] == [5, 25]
    assert clock.slept == []


def test_checkpoints_for_a_machine_that_goes_are_urgent_and_their_time_is_allowed_for(clock):
    """An upload that takes 20 s begins early enough; other checkpoints, which only begin an upload, tell nothing."""
    goes_at = clock.now + 120
    urgent: list[bool] = []
    saved = saved_after(clock, "15steps", 150, {5: goes_at}, save_s=20.0, urgent=urgent)
    assert [step for step, _ in saved[:2]] == [5, 15]
    last = next(time for (_, time), is_urgent in list(zip(saved, urgent, strict=True))[1:] if is_urgent)
    assert last + 20 < 120
    assert urgent.count(True) == 2
