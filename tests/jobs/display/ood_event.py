"""The result of an OOD test, of which a test of its text gives only what it looks at."""

import math
from dataclasses import fields
from typing import Any

from jobs.display.rows import OodRatio

from jobs.display.evaluation_events import Ood


def ratio(detector: str, dataset: str, **known: float) -> OodRatio:
    """A row at M = 1; what is not given is not a number."""
    counts = {"batch_size": 1, "batches": 100, "left_out": 0, "non_finite": 0}
    given: dict[str, Any] = {"detector": detector, "dataset": dataset, **counts, **known}
    return OodRatio(**{field.name: given.get(field.name, math.nan) for field in fields(OodRatio)})


def ood_event(**results: Any) -> Ood:
    """The event with these results."""
    return Ood(
        run="ood x",
        run_id="abc",
        protocol="held-out",
        alpha=0.99,
        bootstraps=100,
        repeats=1,
        in_distribution="digits",
        passing=[],
        place="outputs",
        open_with="glowctl ui",
        **results,
    )
