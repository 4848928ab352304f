"""The text that shows the result of an evaluation."""

import math
from dataclasses import fields

from jobs.display.displays import PlainLines
from jobs.display.evaluation_events import Ood
from jobs.display.rows import OodRatio, OodRegret


def ratio(detector, dataset, auroc, low, high):
    known = {"detector": detector, "dataset": dataset, "batch_size": 1, "batches": 100, "left_out": 0, "non_finite": 0}
    known |= {"auroc": auroc, "auroc_low": low, "auroc_high": high}
    return OodRatio(**{field.name: known.get(field.name, math.nan) for field in fields(OodRatio)})


def test_the_aurocs_of_the_recommended_and_the_best_detector_have_their_intervals():
    event = Ood(
        run="ood x",
        run_id="abc",
        protocol="held-out",
        alpha=0.99,
        bootstraps=100,
        repeats=1,
        in_distribution="digits",
        rows=[
            *(ratio(detector, "digits", *3 * [math.nan]) for detector in ("typicality", "joint")),
            ratio("typicality", "noise", 0.9722, 0.9711, 0.9733),
            ratio("joint", "noise", 0.8622, 0.8611, 0.8633),
        ],
        control=[],
        passing=[],
        recommended="joint",
        regret=[OodRegret("noise", 1, "joint", 0.8622, "typicality", 0.9722)],
        place="outputs",
        open_with="glowctl ui",
    )
    lines = PlainLines().text(event).splitlines()
    [line] = [line for line in lines if "0.8611" in line]
    facts = ["noise M=1", "0.8622 (0.8611-0.8633)", "0.9722 (0.9711-0.9733) typicality"]
    assert [fact for fact in facts if fact not in line] == []
