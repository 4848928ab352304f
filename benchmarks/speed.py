"""The images per second of training, scoring and sampling, against normflows and against the bare convolutions."""

from __future__ import annotations

from functools import partial

from benchmarks.contestants import Job, Work, convolutions, glow, normflows
from benchmarks.row import Bar, Figure, Row, Setting, at_least
from benchmarks.timing import round_robin
from glow import GlowConfig

__all__ = ["ROWS", "SMALL"]

SMALL = GlowConfig(depth=8, width=128)
LARGE = GlowConfig(depth=32, width=512)
SHARE = at_least("bf16, share of the bare convolutions", 80, "%")


def ahead(precision: str, times: float) -> Bar:
    """Make a bar for the speed as a multiple of the speed of normflows."""
    return at_least(f"{precision} against normflows", times, "x")


def contest(job: Job, rounds: int, how: Setting) -> tuple[list[Figure], str]:
    """Measure the images per second of every contestant, and their ratios."""
    contestants = {"normflows float32": normflows(job)}
    for precision in how.precisions:
        contestants[f"glow {precision}"] = glow(job, precision)
        contestants[f"bare convolutions {precision}"] = convolutions(job, precision)
    taken = round_robin(contestants, how.times(rounds), warmups=1 if rounds < 5 else 2)
    figures = []
    for precision in reversed(how.precisions):
        ours = taken[f"glow {precision}"]
        figures += [
            Figure(f"{precision} against normflows", taken["normflows float32"] / ours, "x"),
            Figure(
                f"{precision}, share of the bare convolutions",
                100 * taken[f"bare convolutions {precision}"] / ours,
                "%",
            ),
        ]
    figures += [Figure(name, job.batch / taken[name], "images/s") for name in contestants]
    remark = "" if "bf16" in how.precisions else "This hardware does not compute in bf16, so only float32 was measured."
    return figures, remark


def row(name: str, title: str, work: Work, config: GlowConfig, batch: int, rounds: int, *bars: Bar) -> Row:
    """Make a row that compares the contestants in one kind of work."""
    return Row(name, title, partial(contest, Job(work, config, batch), rounds), (*bars, SHARE))


ROWS = (
    row(
        *("training", "training, K=8 L=3 width 128, batch 128", "training", SMALL, 128, 9),
        *(ahead("bf16", 2.3), ahead("float32", 1.35)),
    ),
    row("scoring", "scoring, K=8 L=3 width 128, batch 128", "scoring", SMALL, 128, 15, ahead("bf16", 2.5)),
    row(
        *("training-large", "training, K=32 L=3 width 512, batch 32", "training", LARGE, 32, 3),
        ahead("bf16", 1.8),
    ),
    row("sampling", "sampling, K=8 L=3 width 128, 256 images", "sampling", SMALL, 256, 9, ahead("bf16", 2.5)),
)
