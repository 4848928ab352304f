"""The learning rate of a training: the highest one is that of the step with the highest one."""

import pytest

from glow import FitConfig
from glow.config import highest_learning_rate, learning_rate_at


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
@pytest.mark.parametrize("warmup", [0, 1, 7, 300])
@pytest.mark.parametrize("steps", [1, 2, 40, 160])
def test_no_step_has_a_higher_learning_rate(schedule, warmup, steps):
    config = FitConfig(learning_rate=0.01, warmup_steps=warmup, schedule=schedule)
    assert highest_learning_rate(config, steps) == max(learning_rate_at(config, step, steps) for step in range(steps))
