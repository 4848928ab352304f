"""Out-of-distribution (OOD) detection from the score tables that `glow.scoring.score` makes.

Import the public names from here. `TypicalityTest` tests batches of images by their likelihood. `fit_detectors` makes
all detectors, including typicality; `evaluate_ood` measures detectors on several data sets, and `recommend` chooses a
detector. `ImageCheck` judges a batch and lists its images that do not belong, with what a `Calibration` keeps. This
package needs no torch.
"""

from glow.ood.calibration import Threshold
from glow.ood.check import Calibration, ImageCheck, Verdict
from glow.ood.conformal import flagged, least_listed
from glow.ood.detectors import DETECTORS, Detector, fit_detectors
from glow.ood.evaluation import OodResult, OodSettings, evaluate_ood, held_out_protocol, split_test_protocol
from glow.ood.groups import group_means
from glow.ood.monitor import Alarm, Monitor
from glow.ood.recommendation import Recommendation, corruption_power, recommend, regret
from glow.ood.statistics import Estimate, auroc_estimate, roc_curve, roc_estimates, wilson_interval
from glow.ood.trainings import over_trainings
from glow.ood.typicality import BatchTest, MeanTest, TypicalityTest

__all__ = [
    "DETECTORS",
    "Alarm",
    "BatchTest",
    "Calibration",
    "Detector",
    "Estimate",
    "ImageCheck",
    "MeanTest",
    "Monitor",
    "OodResult",
    "OodSettings",
    "Recommendation",
    "Threshold",
    "TypicalityTest",
    "Verdict",
    "auroc_estimate",
    "corruption_power",
    "evaluate_ood",
    "fit_detectors",
    "flagged",
    "group_means",
    "held_out_protocol",
    "least_listed",
    "over_trainings",
    "recommend",
    "regret",
    "roc_curve",
    "roc_estimates",
    "split_test_protocol",
    "wilson_interval",
]
