"""Groups of trainings whose negative log-likelihoods (NLL) can be compared, because they are those of the same images.

Padding lowers bits/dim, and a class that is left out may be a hard one. Therefore an NLL is that of its test images.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from jobs.report.run_facts import bits_of, dataset_of, spec_of
from jobs.specs.training import TrainSpec
from jobs.text import count, plain
from jobs.tracking import metric_names, recorded_images, recorded_sizes

if TYPE_CHECKING:
    from jobs.text import JsonObject
    from jobs.tracking import Run

__all__ = ["best_training", "comparable", "images_in_words"]


def comparable(trainings: Iterable[Run]) -> list[list[Run]]:
    """Group trainings by their test images and by the bits per value of these.

    Groups with a finished training come first; among these, groups with more bits; then those with more finished
    trainings; and then those whose first training comes first. Trainings keep their order.
    """
    groups: dict[tuple[object, ...], list[Run]] = {}
    for run in trainings:
        groups.setdefault(_images_of(run), []).append(run)

    def place(group: Sequence[Run]) -> tuple[bool, int, int]:
        finished = len(_finished(group))
        return not finished, -bits_of(group[0]), -finished

    return sorted(groups.values(), key=place)


def best_training(trainings: Iterable[Run]) -> Run | None:
    """Return the finished training with the lowest validation NLL in the first group of `comparable`, or None."""

    def score(run: Run) -> float:
        value = run.data.metrics.get(metric_names.BEST_VALIDATION, math.nan)
        return math.inf if math.isnan(value) else value

    return min((run for group in comparable(trainings)[:1] for run in _finished(group)), key=score, default=None)


def images_in_words(groups: Sequence[Sequence[Run]]) -> list[str]:
    """Return for each group of `comparable` what its images are, as far as it tells the groups apart.

    These are the settings in which the groups differ, such as "5 bits per value, all classes but 7, 8". If there are
    groups with the same words, all have the fingerprint of the test images in addition.
    """
    facts = [[" or ".join(dict.fromkeys(fact)) for fact in zip(*map(_facts, group), strict=True)] for group in groups]
    telling = [index for index, values in enumerate(zip(*facts, strict=True)) if len(set(values)) > 1]
    words = [", ".join(of_group[index] for index in telling) for of_group in facts]
    if len(set(words)) == len(words):
        return words
    prints = [f"the fingerprint {digest}" if (digest := _digest(group[0])) else "no fingerprint" for group in groups]
    return [f"{said}, {fingerprint}".removeprefix(", ") for said, fingerprint in zip(words, prints, strict=True)]


def _finished(group: Iterable[Run]) -> list[Run]:
    return [run for run in group if run.info.status == "FINISHED"]


def _digest(run: Run) -> str | None:
    """Return the fingerprint of the test images; None if the run has not recorded it."""
    return recorded_images(run).get(f"{dataset_of(run)} test")


def _images_of(run: Run) -> tuple[object, ...]:
    """Return what is equal for runs with the same test images: their fingerprint, or else settings of the images."""
    if (digest := _digest(run)) is not None:
        return bits_of(run), digest
    spec = _settings(run)
    return bits_of(run), spec["image_size"], tuple(spec["leave_out"] or ()), spec["background"]


def _facts(run: Run) -> list[str]:
    spec = _settings(run)
    _, _, *size = recorded_sizes(run).get(f"{dataset_of(run)} test", (0, 0, *[spec["image_size"]] * 2))
    return [
        f"{count(bits_of(run), 'bit')} per value",
        f"{'x'.join(map(str, size))} pixels" if all(size) else "the default size",
        f"all classes but {plain(spec['leave_out'])}" if spec["leave_out"] else "all classes",
        f"a background of {spec['background']}",
    ]


def _settings(run: Run) -> JsonObject:
    """Return the settings of a training, with the defaults of those that an older record lacks."""
    return {name: field.default for name, field in TrainSpec.model_fields.items()} | spec_of(run)
