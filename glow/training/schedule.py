"""The learning rate of each step of a training: `FitConfig.learning_rate`, times warm-up, times schedule."""

from __future__ import annotations

import math

from glow.config import FitConfig

__all__ = ["highest_learning_rate", "learning_rate_at"]


def learning_rate_at(config: FitConfig, step: int, steps: int) -> float:
    """Return the learning rate of a step.

    With W warm-up steps, the warm-up is min(1, (step + 1) / W). The cosine schedule is (1 + cos(pi step / steps)) / 2.

    Args:
        config: the settings of the training.
        step: number of finished steps.
        steps: number of steps of the whole training.

    Example:
        >>> config = FitConfig(learning_rate=0.01, warmup_steps=4, schedule="constant")
        >>> [learning_rate_at(config, step, steps=6) for step in range(6)]
        [0.0025, 0.005, 0.0075, 0.01, 0.01, 0.01]
    """
    rate = config.learning_rate * min(1.0, (step + 1) / (config.warmup_steps or 1))
    if config.schedule == "cosine":
        rate *= 0.5 * (1 + math.cos(math.pi * step / steps))
    return rate


def highest_learning_rate(config: FitConfig, steps: int) -> float:
    """Return the highest learning rate of a training, which is below `FitConfig.learning_rate` if steps are few.

    Args:
        config: the settings of the training.
        steps: number of steps of the whole training, at least 1.

    Example:
        >>> highest_learning_rate(FitConfig(learning_rate=0.01, warmup_steps=300, schedule="constant"), steps=150)
        0.005
    """
    # After the warm-up no schedule raises the rate.
    return max(learning_rate_at(config, step, steps) for step in range(min(max(1, config.warmup_steps), steps)))
