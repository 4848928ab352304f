"""The text that shows the result of an evaluation."""

from jobs.display.rows import OodRegret

from jobs.display.displays import PlainLines
from tests.jobs.display.ood_event import ood_event, ratio


def separated(dataset, detector, auroc, low, high):
    return ratio(detector, dataset, auroc=auroc, auroc_low=low, auroc_high=high)


def test_the_aurocs_of_the_recommended_and_the_best_detector_have_their_intervals():
    event = ood_event(
        rows=[
            *(ratio(detector, "digits") for detector in ("typicality", "joint")),
            separated("noise", "typicality", 0.9722, 0.9711, 0.9733),
            separated("noise", "joint", 0.8622, 0.8611, 0.8633),
        ],
        control=[],
        recommended="joint",
        regret=[OodRegret("noise", 1, "joint", 0.8622, "typicality", 0.9722)],
    )
    text = PlainLines().text(event)
    assert text is not None
    [line] = [line for line in text.splitlines() if "0.8611" in line]
    facts = ["noise M=1", "0.8622 (0.8611-0.8633)", "0.9722 (0.9711-0.9733) typicality"]
    assert [fact for fact in facts if fact not in line] == []
