"""`glowctl diff`: print in what two runs differ, and how their models differ on the same images.

The NLLs of the models are compared image by image, by the score tables that trainings and evaluations have recorded. A
difference is that of the first run, a, minus that of the second, b.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

import numpy as np

from glow.comparison import ImageComparison, compare_images
from glowctl.browse.show import FINAL, MOST_METRICS
from glowctl.errors import SpecError
from glowctl.system.machine_metrics import ENVIRONMENT_FILE
from glowctl.text import JsonObject, bits, count, json_text, plain, text_table
from glowctl.tracking import tag_names
from glowctl.tracking.runs import (
    JOB,
    experiment_names,
    named_run,
    read_artifact,
    read_table,
    recorded_images,
    run_of_model,
)
from glowctl.tracking.scores import tables_by_images
from glowctl.tracking.uris import tracking_uri

if TYPE_CHECKING:
    import pandas as pd

    from glowctl.tracking.runs import Run

MOST_IMAGES = 5
"""Number of images that are printed in either direction."""

ORDER = ("test", "validation", "train")
"""Order in which splits are printed."""

DECIDED = 0.05
"""A p-value below this decides which model is better."""

UNCOMMITTED = "uncommitted changes"
"""Name of the fact that the code had changes after its commit. It counts as different: they may be other changes."""

SCORING = {"train", "nll", "ood"}
"""Jobs that score images."""

Pair = tuple[Any, Any]
"""A value of the first run, and that of the second; None if the run does not have it."""

Facts = dict[str, dict[str, Any]]
"""Kind of facts, such as "settings" -> name -> value; a kind is empty if the run has recorded nothing of it."""


@dataclass(frozen=True)
class Compared:
    """The scores of the same images under two models.

    Attributes:
        dataset: name of the data set.
        split: name of its split.
        a: the score table of the first model, one row per image.
        b: that of the second, with the same images in the same order.
        nll: the comparison of their NLLs, in bits/dim.
    """

    dataset: str
    split: str
    a: pd.DataFrame
    b: pd.DataFrame
    nll: ImageComparison

    @property
    def name(self) -> str:
        """The images, such as "mnist test"."""
        return f"{self.dataset} {self.split}"

    def mean_of(self, table: pd.DataFrame) -> float:
        """Return the mean NLL of the images that are compared."""
        compared_N = np.isfinite(self.nll.difference_N)
        return float(table["bits_per_dim"].to_numpy()[compared_N].mean()) if compared_N.any() else np.nan

    def images(self, positions: np.ndarray) -> list[JsonObject]:
        """Return one object per image at these rows: its position in the split, its label, and its NLLs."""
        return [
            {
                "position": int(self.a["index"].iloc[row]),
                "label": int(self.a["label"].iloc[row]),
                "a": float(self.a["bits_per_dim"].iloc[row]),
                "b": float(self.b["bits_per_dim"].iloc[row]),
                "difference": float(self.nll.difference_N[row]),
            }
            for row in positions
        ]

    def to_json(self) -> JsonObject:
        """Return the comparison as a JSON object."""
        a_better, b_better = map(self.images, self.nll.extremes(MOST_IMAGES))
        return {
            "dataset": self.dataset,
            "split": self.split,
            "images": len(self.a) - self.nll.left_out,
            "left_out": self.nll.left_out,
            "a": self.mean_of(self.a),
            "b": self.mean_of(self.b),
            "difference": self.nll.estimate.value,
            "low": self.nll.estimate.low,
            "high": self.nll.estimate.high,
            "p": self.nll.p,
            "a_better": a_better,
            "b_better": b_better,
        }


def diff_runs(
    given_uri: str | None, experiment: str | None, given: tuple[str, str], data: str | None, as_json: bool
) -> None:
    """Print in what two runs differ.

    Args:
        given_uri: the MLflow store; None for the default (`glowctl.tracking.tracking_uri`).
        experiment: name of the experiment to search; None for all.
        given: the two runs; each is the name of a run, the first letters of its id, or the URI of a model.
        data: the images to compare the models on, such as "mnist" or "mnist test"; None for all that both have scored.
        as_json: print one JSON object.

    Raises:
        NoSuchRun: if there is no such run.
        TrackingError: if the store does not answer, or several ids begin with the same letters.
        SpecError: if the models have not both scored `data`.
    """
    uri = tracking_uri(given_uri)
    names = list(experiment_names(uri, experiment))
    a, b = (run_of_model(uri, each) or named_run(uri, names, each) for each in given)
    facts = _facts(uri, a), _facts(uri, b)
    changed = {kind: _changed(facts[0][kind], facts[1][kind]) for kind in facts[0]}
    compared = _compared(uri, a, b, data)
    if as_json:
        pairs = {kind: {name: {"a": x, "b": y} for name, (x, y) in changed[kind].items()} for kind in changed}
        runs = {"a": _named(a), "b": _named(b)}
        print(json_text({**runs, **pairs, "nll": [each.to_json() for each in compared]}), flush=True)
        return
    print(text_table([["", "run", "job", "id"], ["a", *_named(a).values()], ["b", *_named(b).values()]], left=4))
    _print_changes(changed, facts, _named(a)["job"])
    if compared:
        _print_comparisons(compared)
    elif {_named(a)["job"], _named(b)["job"]} <= SCORING:
        print(f"\nno image has been scored under both models: {_without_images(a, b)}")


def _named(run: Run) -> dict[str, str]:
    return {"run": run.info.run_name, "job": run.data.tags.get(JOB, ""), "run_id": run.info.run_id}


def _facts(uri: str, run: Run) -> Facts:
    tags = run.data.tags
    packages, machines = _environment(uri, run.info.run_id)
    code = {"commit": tags[tag_names.COMMIT]} if tags.get(tag_names.COMMIT) else {}
    if tags.get(tag_names.SOURCE_CHANGED) == "True":
        code[UNCOMMITTED] = "yes"
    return {
        "settings": _flat(json.loads(tags.get(tag_names.SPEC, "{}"))) or dict(run.data.params),
        "code": code,
        "packages": packages,
        "data": recorded_images(run),
        "machines": machines,
        "metrics": {name: value for name, value in run.data.metrics.items() if not name.startswith("system/")},
    }


def _flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings by name; those in a nested object have the names of both, such as "train.depth"."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        flat |= {f"{name}.{inner}": of for inner, of in value.items()} if isinstance(value, dict) else {name: value}
    return flat


def _environment(uri: str, run_id: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the versions of packages by name, and the properties of the machines: for each, all values that occur."""
    content = read_artifact(uri, run_id, ENVIRONMENT_FILE)
    known = json.loads(content) if content is not None else {}
    packages = {name: known[name] for name in ("python", "platform") if name in known} | known.get("packages", {})
    machines: dict[str, set[str]] = {}
    for name, facts in known.get("machines", {}).items():
        for property_, value in {"name": name, **facts}.items():
            machines.setdefault(property_, set()).add(_text(value))
    return packages, {name: sorted(values) for name, values in machines.items()}


def _changed(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, Pair]:
    """Return what differs, name -> both values; nothing if one of the runs has not recorded any of it."""
    if not (a and b):
        return {}
    both = {name: (a.get(name), b.get(name)) for name in {**a, **b}}
    return {name: pair for name, pair in both.items() if pair[0] != pair[1] or name == UNCOMMITTED}


def _compared(uri: str, a: Run, b: Run, data: str | None) -> list[Compared]:
    """Compare the models of two runs on the images that both have scored."""
    of_a, of_b = tables_by_images(uri, a), tables_by_images(uri, b)
    found = [each for key in of_a if key in of_b if (each := _compared_table(uri, of_a[key], of_b[key])) is not None]
    found.sort(key=lambda each: (ORDER.index(each.split), each.dataset))
    chosen = [each for each in found if data in (None, each.dataset, each.name)]
    if data is not None and not chosen:
        raise SpecError(
            f"--data {data!r}: the models of the two runs have not both scored such images",
            remedy=f"choose one of {', '.join(each.name for each in found)}" if found else _without_images(a, b),
            code="no-common-images",
        )
    return chosen


def _compared_table(uri: str, of_a: tuple[str, str], of_b: tuple[str, str]) -> Compared | None:
    """Compare two score tables of the same images; None if one of them is gone or damaged."""
    a, b = read_table(uri, *of_a), read_table(uri, *of_b)
    if a is None or b is None or not a["index"].equals(b["index"]):
        return None
    nll = compare_images(*(table["bits_per_dim"].to_numpy() for table in (a, b)))
    return Compared(str(a["dataset"].iloc[0]), str(a["split"].iloc[0]), a, b, nll)


def _without_images(a: Run, b: Run) -> str:
    """Return why the models of two runs have no image in common, and what helps."""
    pairs = {name: (a.data.params.get(name), b.data.params.get(name)) for name in ("image_shape", "bits")}
    if other := [f"{name} {x} and {y}" for name, (x, y) in pairs.items() if x and y and x != y]:
        return f"their images differ in {', '.join(other)}, so that no NLLs can be compared"
    tags = [{tag_names.MODEL: run.info.run_id, **run.data.tags} for run in (a, b)]  # a training has no such tag
    commands = [f"glowctl nll --model {of.get(tag_names.TRAIN_RUN, of[tag_names.MODEL])}" for of in tags]
    return f"score the same images with {' and '.join(commands)}"


def _print_changes(changed: Mapping[str, Mapping[str, Pair]], facts: tuple[Facts, Facts], job: str) -> None:
    missing = {kind: [side for side, of in zip("ab", facts, strict=True) if not of[kind]] for kind in changed}
    lines = [f"{kind}: not recorded by {' and '.join(sides)}" for kind, sides in missing.items() if sides]
    if same := [kind for kind in changed if not changed[kind] and not missing[kind]]:
        lines.insert(0, f"the same: {', '.join(same)}")
    print("\n" + "\n".join(lines) if lines else "")
    for kind, pairs in changed.items():
        shown = _chosen_metrics(pairs, job) if kind == "metrics" else pairs
        if shown:
            print(
                f"\n{text_table([[kind, 'a', 'b'], *([name, *map(_text, pair)] for name, pair in shown.items())], 3)}"
            )
        if len(pairs) > len(shown):
            print(f"and {count(len(pairs) - len(shown), 'metric')} more with --json")


def _chosen_metrics(pairs: Mapping[str, Pair], job: str) -> dict[str, Pair]:
    """Return the metrics to print, with five digits."""
    names = [name for name in FINAL.get(job, ()) if name in pairs] or sorted(pairs)[:MOST_METRICS]
    a_b = {name: tuple(value if value is None else float(f"{value:.5g}") for value in pairs[name]) for name in names}
    return {name: (a, b) for name, (a, b) in a_b.items()}


def _text(value: Any) -> str:
    return "-" if value in (None, "") else plain(value)


def _print_comparisons(compared: list[Compared]) -> None:
    rows = [["NLL in bits/dim", "images", "a", "b", "a - b", "95 % interval", "better"], *map(_row, compared)]
    print(f"\n{text_table(rows)}")
    for each in compared:
        if each.nll.left_out:
            print(f"{each.name}: left out {count(each.nll.left_out, 'image')} whose NLL is not finite under a model")
    for each in compared:
        sides = [
            [[str(image["position"]), str(image["label"]), f"{image['difference']:.3f}"] for image in each.images(side)]
            for side in each.nll.extremes(MOST_IMAGES)
        ]
        head = [f"{each.name}: a is better on image", "label", "a - b", "b is better on image", "label", "a - b"]
        print(f"\n{text_table([head, *([*a, *b] for a, b in zip_longest(*sides, fillvalue=['', '', '']))], 0)}")


def _row(each: Compared) -> list[str]:
    estimate, images = each.nll.estimate, len(each.a) - each.nll.left_out
    better = ("a" if estimate.value < 0 else "b") if each.nll.p < DECIDED else "not decided"
    means = [bits(each.mean_of(table)) for table in (each.a, each.b)]
    interval = f"{estimate.low:.4f} to {estimate.high:.4f}"
    return [each.name, f"{images:,}", *means, f"{estimate.value:.4f}", interval, better]
