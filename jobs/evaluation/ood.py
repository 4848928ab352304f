"""The OOD job: the typicality test, and detectors to compare it with, over data sets and batch sizes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from glow.datasets import LazyDataset, dataset_names, describe, status
from glow.datasets.names import absolute_dataset, dataset_label
from glow.figures import nll_histogram, ood_ratio_curve, per_class_bars, roc_curves
from glow.ood import (
    DETECTORS,
    OodResult,
    OodSettings,
    evaluate_ood,
    fit_detectors,
    held_out_protocol,
    report_protocol,
    roc_curve,
)
from glow.ood.calibration import least_held_out
from glow.ood.detectors import BACKGROUND
from glow.ood.evaluation import REPORT_IMAGES
from jobs.display.evaluation_events import Absent, Ood
from jobs.display.events import Show
from jobs.display.rows import OodClass, OodControl, OodRatio, rows_as
from jobs.errors import JobError, SpecError
from jobs.evaluation.find_model import find_model
from jobs.evaluation.ood_corruptions import Drift, corrupted_images, draw_drift, drift
from jobs.evaluation.run import (
    Evaluation,
    described,
    evaluation_run,
    left_out_of,
    opened,
    prepare_evaluation,
    scores_of,
    trained_on,
    with_notes,
    with_tables,
)
from jobs.specs.evaluation import OodSpec
from jobs.text import count, markdown_table, rows_of
from jobs.tracking import Record, tag_names

__all__ = ["OodWork", "prepare", "run"]

MADE = ("noise", "constant")
OTHERS = {
    "digits": ("photos",),
    "mnist": ("emnist-letters", "fashion-mnist"),
    "fashion-mnist": ("mnist", "emnist-letters"),
    "kmnist": ("mnist", "emnist-letters", "fashion-mnist"),
    "emnist-letters": ("mnist", "fashion-mnist"),
    "cifar10": ("svhn", "photos"),
    "svhn": ("cifar10", "photos"),
}
"""What a model of each data set is tested against, beside `MADE`."""

REPORT_BOOTSTRAPS, REPORT_REPEATS = 50, 2


@dataclass(frozen=True)
class OodWork:
    """`own` and `others` are labels of data sets, `trained_on` is the name of the own one; `absent` says of each that
    is not there how to get it."""

    evaluation: Evaluation[OodSpec]
    settings: OodSettings
    trained_on: str
    own: str
    others: list[str]
    class_names: dict[str, tuple[str, ...]]
    absent: list[str]


def prepare(spec: OodSpec) -> OodWork:
    """Finds model, data and earlier scores. Raises SpecError for a test that cannot be, and what `jobs.evaluation.run`
    raises."""
    work = prepare_evaluation(spec)
    own = trained_on(work)
    given = spec.ood_datasets is not None
    usual = (*OTHERS.get(own, ("photos",)), *MADE)
    names = [absolute_dataset(name) for name in spec.ood_datasets or usual]
    there = [name for name in names if given or "test" in described(work, name).splits]
    if spec.benchmark:
        there = list(dict.fromkeys([*there, *_comparable(work)]))
    others = [name for name in there if name != own]
    left_out = f"{own}-left-out" if left_out_of(work, own) else None
    if not others and left_out is None:
        raise SpecError("there is no data set to tell from the model's own: name some with --ood-datasets")
    images = {(own, "train"): opened(work, own, "train")}
    if spec.protocol == "held-out":
        images[own, "validation"] = opened(work, own, "validation")
    images |= {(name, "test"): opened(work, name, "test") for name in (own, *others)}
    if left_out is not None:
        images[left_out, "test"] = opened(work, own, "test", of_left_out=True)
    images |= corrupted_images(spec, own, images)
    settings = _settings(spec)
    _check_sizes(spec, settings, images, own)
    infos = {name: described(work, name) for name in (own, *others)}
    if left_out is not None:
        others.insert(0, left_out)
        infos[left_out] = infos[own]
    scored = with_tables(work, images)
    if spec.background_model is not None:
        scored = replace(scored, background=with_tables(_background(work, spec.background_model), images))
    return OodWork(
        with_notes(scored, images.values(), infos.values()),
        settings,
        own,
        dataset_label(own),
        [dataset_label(name) for name in others],
        {dataset_label(name): info.class_names for name, info in infos.items()},
        [_how_to_get(name, spec.data_root) for name in names if name not in there],
    )


def _background(work: Evaluation[OodSpec], name: str) -> Evaluation[OodSpec]:
    """The same evaluation of the background model. Raises SpecError if it is of other images than the model."""
    model = find_model(name, work.uri, work.spec.experiment)
    ours, theirs = work.model.config, model.config
    if (theirs.image_shape, theirs.bits) != (ours.image_shape, ours.bits):
        raise SpecError(
            f"--background-model {name} is of images of {theirs.image_shape} and {theirs.bits} bits, and the model of "
            f"{ours.image_shape} and {ours.bits}: train one with the same --dataset, --image-size and --bits"
        )
    return replace(work, model=model)


def _comparable(work: Evaluation[OodSpec]) -> list[str]:
    """Every known data set that is here, whose images have the shape of the model's by themselves; and `MADE`."""
    root, shape = work.spec.data_root, work.model.config.image_shape
    infos = {name: describe(name, root) for name in dataset_names() if ":" not in name}
    return [
        name for name, info in infos.items() if "test" in info.splits and (name in MADE or info.image_shape == shape)
    ]


def _how_to_get(name: str, root: str | None) -> str:
    by_hand = status(name, root).advice.partition(", ")[2]
    return f"{name} is not here and left out: name it in --ood-datasets to fetch it, {by_hand}"


def _settings(spec: OodSpec) -> OodSettings:
    report = spec.protocol == "report"
    return OodSettings(
        batch_sizes=spec.batch_sizes,
        alpha=spec.alpha,
        bootstraps=spec.bootstraps or (REPORT_BOOTSTRAPS if report else 10_000),
        center=spec.center,
        repeats=spec.repeats or (REPORT_REPEATS if report else 1),
        exact=not report,
        seed=spec.seed,
    )


def _check_sizes(spec: OodSpec, settings: OodSettings, images: Mapping[tuple[str, str], LazyDataset], own: str) -> None:
    """Before an image is scored: whether every data set fills a batch, and alpha can be settled."""
    report = spec.protocol == "report"
    sizes = {f"{name} {split}": len(lazy) for (name, split), lazy in images.items() if split != "train"}
    if report:
        half = min(REPORT_IMAGES, len(images[own, "test"]) // 2)
        sizes = {what: half if what == f"{own} test" else min(REPORT_IMAGES, n) for what, n in sizes.items()}
    largest = max(settings.batch_sizes)
    for what, size in sizes.items():
        if size < largest:
            raise SpecError(f"{size} images of {what} do not fill a batch of {largest}: leave it out of --batch-sizes")
    held_out = f"{own} {'test' if report else 'validation'}"
    if settings.exact and 1 in settings.batch_sizes and sizes[held_out] < least_held_out(settings.alpha):
        raise SpecError(
            f"{sizes[held_out]} images of {held_out} cannot settle --alpha {settings.alpha} for single images: it "
            f"takes {least_held_out(settings.alpha)}; lower --alpha, or leave 1 out of --batch-sizes"
        )


def run(work: OodWork, show: Show) -> OodResult:
    """Scores what is not scored yet, on Ray; the tests are arithmetic here.

    Raises JobError for workers that fail or scores that cannot be tested with, TrackingError if the store takes no
    more.
    """
    evaluation, spec = work.evaluation, work.evaluation.spec
    for sentence in work.absent:
        show(Absent(sentence))
    with evaluation_run(evaluation, "ood", show) as recorded:
        behind = {} if evaluation.background is None else scores_of(evaluation.background, recorded.record, show)
        scores = scores_of(evaluation, recorded.record, show)
        for key, table in behind.items():
            scores[key] = scores[key].assign(**{BACKGROUND: table["nll"]})
        tests = {name: scores[name, "test"] for name in (work.own, *work.others)}
        if spec.protocol == "report":
            deal = report_protocol(tests, spec.seed)
        else:
            deal = held_out_protocol(scores[work.own, "validation"], tests)
        train = scores[work.own, "train"]
        try:
            detectors = fit_detectors(train, work.settings.center, work.settings.seed)
            result = evaluate_ood(train, deal, work.settings, work.class_names, detectors)
            found = drift(spec, work.settings, work.trained_on, detectors, scores, result)
        except ValueError as error:  # of the scores: the settings have been checked
            raise JobError(f"these scores cannot be tested with: {error}") from error
        _write_tables(result, found, recorded.record, recorded.folder)
        _draw(result, tests, work, recorded.folder)
        draw_drift(found, work.evaluation.model.title, recorded.folder)
        if found.recommended is not None:
            recorded.record.tag(tag_names.RECOMMENDED, found.recommended)
        recorded.record.metrics(_metrics(result, scores, work))
        told = Ood(
            **recorded.known_as,
            protocol=spec.protocol,
            alpha=spec.alpha,
            bootstraps=work.settings.bootstraps,
            repeats=work.settings.repeats,
            in_distribution=work.own,
            rows=rows_as(OodRatio, result.ratios),
            control=rows_as(OodControl, result.control),
            passing=_passing(result, work),
            recommended=found.recommended,
            regret=found.regret,
            caught=found.caught,
            place=recorded.place,
        )
        recorded.finish(told, _result_line(result, work), _description(result, work))
    return result


def _write_tables(result: OodResult, found: Drift, record: Record, folder: Path) -> None:
    for name, table in (
        ("ood", result.ratios),
        ("ood_power", result.power),
        ("ood_per_class", result.per_class),
        ("ood_control", result.control),
        ("ood_ratios", report_table(result.ratios).rename_axis("data set").reset_index()),
        ("ood_detectors", detector_table(result.ratios).reset_index()),
        *found.tables.items(),
    ):
        table.columns = table.columns.map(str)
        table.to_parquet(folder / f"{name}.parquet", index=False)
        record.table(table, f"{name}.json")


def report_table(ratios: pd.DataFrame) -> pd.DataFrame:
    """OOD ratios of the typicality test laid out as the course report's: rows data sets, columns M, cells in percent
    with the 95 % interval, and the standard deviation over repeats where there are some."""
    typicality = ratios[ratios["detector"] == "typicality"]
    cells = typicality.assign(cell=[ratio_cell(row) for row in rows_of(typicality)])
    table = cells.pivot(index="dataset", columns="batch_size", values="cell")
    table.columns = [f"M={m}" for m in table.columns]
    return table.loc[list(dict.fromkeys(typicality["dataset"]))].fillna("-")


def ratio_cell(row: Mapping[str, Any]) -> str:
    """ "0.70 (0.55-0.88)", and with repeats "1.33 ± 0.69 (1.0-1.7)", in percent."""
    spread = f" ± {100 * row['ratio_sd']:.2f}" if np.isfinite(row["ratio_sd"]) else ""
    return f"{100 * row['ratio']:.2f}{spread} ({100 * row['ratio_low']:.2f}-{100 * row['ratio_high']:.2f})"


def detector_table(ratios: pd.DataFrame) -> pd.DataFrame:
    """AUROC of each detector of `DETECTORS`: rows (data set, M), columns detectors."""
    told = ratios[ratios["detector"].isin(DETECTORS)].dropna(subset=["auroc"])
    table = told.pivot(index=["dataset", "batch_size"], columns="detector", values="auroc")
    return table.reindex(list(dict.fromkeys(zip(told["dataset"], told["batch_size"], strict=True))))[
        list(dict.fromkeys(told["detector"]))
    ]


def _draw(result: OodResult, tests: Mapping[str, pd.DataFrame], work: OodWork, folder: Path) -> None:
    def save(figure: Figure, name: str) -> None:
        figure.savefig(folder / f"{name}.png", dpi=120)

    model, alpha = work.evaluation.model.title, work.settings.alpha
    save(
        nll_histogram(pd.concat(tests.values(), ignore_index=True), f"NLL of test images under {model}"),
        "nll_histogram",
    )
    save(ood_ratio_curve(result.power, f"Typicality test under {model}", alpha, work.own), "ood_ratio")
    for m in sorted(work.settings.batch_sizes):
        curves = {}
        own = result.statistics["typicality", work.own, m]
        for name in work.others:
            curve = roc_curve(own, result.statistics["typicality", name, m])
            row = result.ratios.query("detector == 'typicality' and dataset == @name and batch_size == @m").iloc[0]
            curves[name] = (curve.false_positives, curve.true_positives, float(row["auroc"]))
        save(roc_curves(curves, f"{work.own} against others by typicality, M = {m}"), f"roc-M{m}")
    smallest = min(work.settings.batch_sizes)
    for name in (work.own, *work.others):
        rows = result.per_class[(result.per_class["dataset"] == name) & (result.per_class["batch_size"] == smallest)]
        if len(rows) > 1:
            title = f"{name}: called OOD by typicality, M = {smallest}, by class"
            save(per_class_bars(rows, title, alpha), f"per_class-{name}")


def _metrics(result: OodResult, scores: Mapping[tuple[str, str], pd.DataFrame], work: OodWork) -> dict[str, float]:
    """Typicality's by their own names, those of other `DETECTORS` beneath theirs."""
    metrics = {}
    for row in rows_of(result.ratios[result.ratios["detector"].isin(DETECTORS)]):
        prefix = "" if row["detector"] == "typicality" else f"{row['detector']}/"
        where = f"{row['dataset']}/M{row['batch_size']}"
        metrics[f"{prefix}ood_ratio/{where}"] = row["ratio"]
        for name in ("auroc", "aupr", "fpr95"):
            if np.isfinite(row[name]):
                metrics[f"{prefix}{name}/{where}"] = row[name]
        if not prefix and row["dataset"] == work.own:
            metrics[f"threshold/M{row['batch_size']}"] = row["threshold"]
    for (name, split), table in scores.items():
        metrics[f"non_finite/{name}/{split}"] = float((~table["finite"]).sum())
    return metrics


def _passing(result: OodResult, work: OodWork) -> list[OodClass]:
    """The classes of other data sets that pass most often for the model's own, at the smallest M."""
    rows = result.per_class
    if rows.empty:
        return []
    rows = rows[(rows["dataset"] != work.own) & (rows["batch_size"] == min(work.settings.batch_sizes))]
    several = rows.groupby("dataset")["label"].transform("nunique") > 1
    return rows_as(OodClass, rows[several & (rows["ratio_high"] < 1)].sort_values("ratio").head(5))


def _result_line(result: OodResult, work: OodWork) -> str:
    """At the smallest M."""
    m = min(work.settings.batch_sizes)
    rows = result.ratios.query("detector == 'typicality' and batch_size == @m")
    told = ", ".join(f"{row['dataset']} {100 * row['ratio']:.3g} %" for row in rows_of(rows))
    return f"called OOD at M = {m}: {told}"


def _description(result: OodResult, work: OodWork) -> str:
    table = report_table(result.ratios)
    rows = [[name, *cells] for name, cells in zip(table.index, table.to_numpy(), strict=True)]
    spec, settings = work.evaluation.spec, work.settings
    return "\n".join(
        [
            markdown_table([["OOD ratio, %", *table.columns], *rows]),
            "",
            f"Typicality test, protocol {spec.protocol}, alpha {settings.alpha}, {settings.bootstraps} bootstraps, "
            f"{count(settings.repeats, 'repeat')}, in brackets 95 % intervals.",
        ]
    )
