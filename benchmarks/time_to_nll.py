"""The time in which the laptop preset reaches the NLL that normflows and a plain Glow reach in 20 minutes."""

from __future__ import annotations

from benchmarks.precision import Data
from benchmarks.racers import glow_racer, normflows_racer
from benchmarks.row import Figure, Row, Setting, at_most
from benchmarks.timed import Budget, train_for
from glow import GlowConfig
from jobs.specs.training import make_train_spec

__all__ = ["ROW"]

SECONDS, QUICK_SECONDS = 1200, 60
LOOKS, LOOKS_OF_OURS = 20, 120
TESTED = 1000
PER_CLASS = 4000
WIDTH = 64
"""The width of the other two models."""
OTHERS = ("normflows", "a plain Glow")


def raced(how: Setting) -> tuple[list[Figure], str]:
    """Train each of the others for the whole time, then the preset until it is as good."""
    data = Data.load(PER_CLASS)
    test = next(iter(data.tests.values()))[:TESTED]
    shape = (1, *data.train.shape[2:])
    spec = make_train_spec("laptop", {"levels": data.levels})
    plain = GlowConfig(shape, levels=data.levels, depth=8, width=WIDTH)
    seconds = QUICK_SECONDS if how.quick else SECONDS
    budget = Budget(seconds, how.threads, spec.batch_size, spec.learning_rate)
    figures = []
    for name, racer in zip(OTHERS, (normflows_racer, glow_racer), strict=True):
        theirs = train_for(budget, *racer(plain, data.train[:256]), data.train, test, LOOKS).best
        ours = glow_racer(spec.glow_config(shape, 0), data.train[:256])
        curve = train_for(budget, *ours, data.train, test, LOOKS_OF_OURS, enough=theirs)
        figures += [
            Figure(f"{name}: NLL", theirs, "bits/dim"),
            Figure(f"time to the NLL of {name}, its own = 1", curve.reached(theirs) / seconds, "x"),
        ]
    return figures, (
        f"{seconds:,} s each on {data.name}, {len(data.train):,} images, at K=8 L={data.levels}, the others of width "
        f"{WIDTH}, batches of {spec.batch_size}, Adam at {spec.learning_rate:g} with half a cosine and a warm-up of "
        f"{budget.warmup:.0%} of the time; ours stops where it is as good. NLL of {len(test):,} test images."
    )


ROW = Row(
    "time_to_nll",
    "time to an NLL: the laptop preset against plain Glows",
    raced,
    tuple(at_most(f"time to the NLL of {name}, its own = 1", 0.25, "x") for name in OTHERS),
)
