"""The OOD job: the typicality test and the detectors it is compared with, over data sets and batch sizes.

The statistics are in `glow.ood`. This module chooses the data sets, gets their scores, and writes tables, figures and
metrics. M is the number of images that are judged together, as one batch.

Corrupted images serve to recommend a detector, and to test which corruptions it notices. The recommendation uses
held-out images under all corruptions. With ``--corruptions``, the job also finds how many corrupted test images per
batch the recommended detector and the typicality test need to notice each corruption.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from glow.datasets import DatasetInfo, LazyDataset, dataset_names, describe, status
from glow.datasets.corruptions import CORRUPTED, SEVERITIES, all_corrupted, for_recommendation
from glow.datasets.names import absolute_dataset, dataset_label
from glow.figures import pictures
from glow.ood import (
    DETECTORS,
    OodResult,
    OodSettings,
    corruption_power,
    evaluate_ood,
    fit_detectors,
    group_means,
    held_out_protocol,
    recommend,
    regret,
    roc_curve,
    split_test_protocol,
)
from glow.ood.calibration import least_held_out
from glow.ood.detectors import BACKGROUND, Detector
from glow.ood.recommendation import NEW_CLASSES
from glowctl.display.events import Absent, Event, Noted, Ood, Scored, Show
from glowctl.display.tables import as_markdown, passing, settings_sentence, share_table
from glowctl.errors import JobError, SpecError
from glowctl.evaluation.content import distances_added, with_asked_encoder, with_encoder
from glowctl.evaluation.find_model import find_model
from glowctl.evaluation.run import Evaluation, EvaluationRun, evaluation_run, prepare_evaluation
from glowctl.specs.evaluation import CORRUPTIONS, OodSpec
from glowctl.text import Row, count, rows_of
from glowctl.tracking import tag_names

MADE = ("noise", "constant")
"""Data sets that are generated, so that every machine has them."""

OTHERS = {
    "digits": ("photos",),
    "mnist": ("emnist-letters", "fashion-mnist"),
    "fashion-mnist": ("mnist", "emnist-letters"),
    "kmnist": ("mnist", "emnist-letters", "fashion-mnist"),
    "emnist-letters": ("mnist", "fashion-mnist"),
    "cifar10": ("cifar100", "svhn", "photos"),
    "cifar100": ("cifar10", "svhn", "photos"),
    "svhn": ("cifar10", "photos"),
}
"""Name of a model's own data set -> the data sets that it is tested against by default, in addition to `MADE`."""

NEAR = {"cifar10": ("cifar100", "tiny-imagenet"), "cifar100": ("cifar10", "tiny-imagenet")}
"""Name of a model's own data set -> the data sets that OpenOOD calls near (Yang et al. 2022, arXiv 2210.07242)."""

BOOTSTRAPS = 10_000
"""Default of ``--bootstraps``."""


Scores = Mapping[tuple[str, str], pd.DataFrame]
"""Score tables by (label of the data set, split)."""


@dataclass(frozen=True)
class OodWork:
    """An OOD evaluation whose settings have been checked.

    Attributes:
        evaluation: the settings, the model, and the score tables that are needed.
        settings: the settings of the tests.
        own: label of the data set that the model was trained on.
        others: labels of the data sets that are tested against it.
        groups: the labels of those whose content is near to that of the model's, and of those that are far; empty if
            none is known to be near. Generated and left-out images are in neither.
        class_names: for each data set, by its label, the names of its classes.
        absent: for each data set that belongs to the default choice but is missing on this machine, a sentence on how
            to get it; with ``--benchmark`` a sentence on the data sets whose images have another shape; and a sentence
            on those that were resized otherwise than the model's own.
    """

    evaluation: Evaluation[OodSpec]
    settings: OodSettings
    own: str
    others: list[str]
    groups: dict[str, list[str]]
    class_names: dict[str, tuple[str, ...]]
    absent: list[str]


def prepare(spec: OodSpec) -> OodWork:
    """Find the model, the data sets, and the scores of earlier runs, and check that every test is possible.

    Raises:
        SpecError: if there is no data set to test against the model's own, a data set has too few images for a batch,
            the validation split has too few images for alpha, or the background model takes images of another shape or
            number of bits than the model.
        DatasetNotFound, DatasetCorrupt: if a data set cannot be read.
        TrackingError: if the store does not answer, or has no such run or model.
        CheckpointError: if the model is missing, damaged or untrained.
        JobError: if the named run has no model, or the output folder cannot be used.
    """
    work = with_asked_encoder(prepare_evaluation(spec))
    own, spec = work.trained_on, work.spec
    given = spec.ood_datasets is not None
    usual = (*OTHERS.get(own, ("photos",)), *MADE)
    near = [absolute_dataset(name) for name in spec.near or ()]
    names = list(dict.fromkeys([*near, *(absolute_dataset(name) for name in spec.ood_datasets or usual)]))
    there = [name for name in names if given or name in near or "test" in work.described(name).splits]
    absent = [_how_to_get(name, work.data_root) for name in names if name not in there]
    if spec.benchmark:
        known = _known(work)
        there = list(dict.fromkeys([*there, *(name for name, info in known.items() if _comparable(work, name, info))]))
        absent += _of_other_shapes(work, {name: info for name, info in known.items() if name not in (own, *there)})
    others = [name for name in there if name != own]
    left_out = f"{own}-left-out" if work.left_out_of(own) else None
    if not others and left_out is None:
        raise SpecError(
            f"there is no data set to compare with the model's own data set, {own}",
            remedy="name some with --ood-datasets, such as --ood-datasets noise",
            code="no-ood-data-sets",
        )
    images = {(own, "train"): work.opened(own, "train")}
    if spec.protocol == "held-out":
        images[own, "validation"] = work.opened(own, "validation")
    images |= {(name, "test"): work.opened(name, "test") for name in (own, *others)}
    if left_out is not None:
        images[left_out, "test"] = work.opened(own, "test", of_left_out=True)
    images |= corrupted_images(spec, own, images)
    settings = _settings(spec)
    _check_sizes(spec, settings, images, own)
    if left_out is not None and spec.encoder is not None and spec.protocol == "held-out":
        images[left_out, "validation"] = work.opened(own, "validation", of_left_out=True)  # recommends, is not tested
    infos = {name: work.described(name) for name in (own, *others)}
    groups = _groups(others, near or NEAR.get(own, ()))
    absent += _unequal_resizing(own, infos)
    if left_out is not None:
        others.insert(0, left_out)
        infos[left_out] = infos[own]
    scored = work.with_tables(images, gradients=spec.gradients)
    if spec.background_model is not None:
        behind = _background(work, spec.background_model)
        named = {"background_model": behind.model.reference}
        scored = replace(
            scored,
            given=scored.given.model_copy(update=named),
            spec=scored.spec.model_copy(update=named),
            background=behind.with_tables(images),
        )
    return OodWork(
        with_encoder(scored.with_notes(images.values(), infos.values())),
        settings,
        dataset_label(own),
        [dataset_label(name) for name in others],
        groups,
        {dataset_label(name): info.class_names for name, info in infos.items()},
        absent,
    )


def _background(work: Evaluation[OodSpec], name: str) -> Evaluation[OodSpec]:
    """Return the same evaluation of the background model, after checking that its images are of the same form."""
    model = find_model(name, work.uri, work.spec.experiment)
    ours, theirs = work.model.config, model.config
    if (theirs.image_shape, theirs.bits) != (ours.image_shape, ours.bits):
        raise SpecError(
            f"--background-model {name} takes images of shape {theirs.image_shape} with {theirs.bits} bits per value, "
            f"but the tested model takes {ours.image_shape} with {ours.bits}",
            remedy="train a background model with the --dataset, --image-size and --bits of the tested model",
            code="background-model-mismatch",
        )
    return replace(work, model=model)


def _known(work: Evaluation[OodSpec]) -> dict[str, DatasetInfo]:
    """Return the known data sets that have a test split on this machine, by name."""
    infos = {name: describe(name, work.data_root) for name in dataset_names() if ":" not in name}
    return {name: info for name, info in infos.items() if "test" in info.splits}


def _comparable(work: Evaluation[OodSpec], name: str, info: DatasetInfo) -> bool:
    """Return whether a known data set is one of `MADE`, or its images have the model's shape without resizing.

    A known data set of small images is padded by default, so that its images have one shape with padding and another
    without.
    """
    return name in MADE or work.model.config.image_shape in (info.image_shape, info.original_shape)


def _of_other_shapes(work: Evaluation[OodSpec], infos: Mapping[str, DatasetInfo]) -> list[str]:
    """Return one sentence that names data sets and their shapes as the reason why they are not tested, if any."""
    if not infos:
        return []
    shapes = ", ".join(f"{name} ({_shape_text(info.image_shape)})" for name, info in infos.items())
    ours = _shape_text(work.model.config.image_shape)
    return [f"--benchmark leaves out data sets whose images do not have the model's shape {ours}: {shapes}"]


def _groups(others: list[str], near: Collection[str]) -> dict[str, list[str]]:
    """Return the labels of the near data sets and of the far ones; nothing if either group is empty."""
    groups = {
        "near": [dataset_label(name) for name in others if name in near],
        "far": [dataset_label(name) for name in others if name not in (*near, *MADE)],
    }
    return groups if all(groups.values()) else {}


def _unequal_resizing(own: str, infos: Mapping[str, DatasetInfo]) -> list[str]:
    """Return one sentence on the data sets whose images are shrunk while the model's own are not, or the other way."""
    shrunk = {name: info.original_shape for name, info in infos.items() if info.shrunk}
    unequal = [name for name in infos if (name in shrunk) != (own in shrunk) and name not in MADE]
    if not unequal:
        return []
    sizes = ", ".join(f"{name} ({_shape_text(infos[name].original_shape)})" for name in unequal)
    how = (
        f"{own} is shrunk to the model's size and these are not" if own in shrunk else f"{own} is not shrunk, these are"
    )
    return [f"a detector may see the resizing in place of the content: {how}: {sizes}"]


def _shape_text(shape: tuple[int, int, int]) -> str:
    return "x".join(map(str, shape))


def _how_to_get(name: str, root: str | None) -> str:
    by_hand = status(name, root).advice.partition(", ")[2]  # the advice is "Load with download=True, or put ..."
    return f"{name} is not on this machine and is left out: name it in --ood-datasets to fetch it, {by_hand}"


def _settings(spec: OodSpec) -> OodSettings:
    return OodSettings(
        batch_sizes=spec.batch_sizes,
        alpha=spec.alpha,
        bootstraps=spec.bootstraps or BOOTSTRAPS,
        center=spec.center,
        repeats=spec.repeats or 1,
        exact=spec.protocol == "held-out",
        seed=spec.seed,
    )


def _check_sizes(spec: OodSpec, settings: OodSettings, images: Mapping[tuple[str, str], LazyDataset], own: str) -> None:
    """Check, before an image is scored, that all images fill a batch and enough images are held out for alpha."""
    sizes = {f"{name} {split}": len(lazy) for (name, split), lazy in images.items() if split != "train"}
    if spec.protocol == "split-test":
        half = len(images[own, "test"]) // 2
        sizes = {what: min(half, size) for what, size in sizes.items()}
    largest = max(settings.batch_sizes)
    for what, size in sizes.items():
        if size < largest:
            raise SpecError(
                f"the {size} images of {what} do not fill a batch of {largest}",
                remedy="leave this batch size out of --batch-sizes",
                code="batch-size-too-large",
            )
    if spec.corruptions and spec.corruption_images < largest:
        raise SpecError(
            f"--corruption-images {spec.corruption_images} does not fill a batch of {largest} for each corruption and "
            "severity",
            remedy=f"give --corruption-images {largest} or more, or leave {largest} out of --batch-sizes",
            code="too-few-corruption-images",
        )
    held_out = f"{own} validation"
    smallest = min(settings.batch_sizes)  # the fewer images per batch, the more must be held out
    needed = least_held_out(settings.alpha, smallest)
    if settings.exact and sizes[held_out] < needed:
        raise SpecError(
            f"--alpha {settings.alpha} needs at least {needed} held-out images for batches of "
            f"{count(smallest, 'image')}, but {held_out} has only {sizes[held_out]}",
            remedy=f"lower --alpha, or leave {smallest} out of --batch-sizes",
            code="too-few-held-out",
        )


def run(work: OodWork, show: Show) -> Ood:
    """Score on Ray the images that have no score yet, run the tests in this process, and record and return the results.

    Raises:
        JobError: if workers fail or have no room on the machines, or too many scores are not finite.
        TrackingError: if the store does not answer.
    """
    evaluation, spec = work.evaluation, work.evaluation.spec
    for sentence in work.absent:
        show(Absent(sentence))
    with evaluation_run(evaluation, "ood", show) as recorded:
        behind = _background_scores(work, recorded)
        scores = distances_added(evaluation, evaluation.scores(recorded), recorded)
        for key, table in behind.items():
            scores[key] = scores[key].assign(**{BACKGROUND: table["nll"]})
        tests = {name: scores[name, "test"] for name in (work.own, *work.others)}
        if spec.protocol == "split-test":
            deal = split_test_protocol(tests, spec.seed)
        else:
            deal = held_out_protocol(scores[work.own, "validation"], tests)
        train = scores[work.own, "train"]
        try:
            detectors = fit_detectors(train, work.settings.center, work.settings.seed)
            result = evaluate_ood(train, deal, work.settings, work.class_names, detectors)
            found = drift(work, detectors, scores, result)
        except ValueError as error:  # the settings have been checked, so the scores are at fault
            raise JobError(
                f"no test is possible with these scores ({error})",
                remedy="give a lower --alpha or smaller --batch-sizes, or test a model with fewer scores that are not "
                "finite",
                code="scores-unusable",
            ) from error
        if (aurocs := found.tables.get("ood_recommended")) is not None and NEW_CLASSES in aurocs:
            recorded.show(Noted(_proxies(aurocs.set_index("detector"))))
        groups = group_means(result.ratios, work.groups)
        _write_tables(result, groups, found, recorded)
        for name, figure in _figures(result, tests, found, work):
            recorded.figure(figure, name)
        if found.recommended is not None:
            recorded.record.tag(tag_names.RECOMMENDED, found.recommended)
        metrics, images = _metrics(result, scores, work)
        recorded.metrics(metrics | _group_metrics(groups), images)
        event = Ood(
            **recorded.known_as,
            protocol=spec.protocol,
            alpha=spec.alpha,
            bootstraps=work.settings.bootstraps,
            repeats=work.settings.repeats,
            in_distribution=work.own,
            rows=rows_of(result.ratios),
            control=rows_of(result.control),
            groups=rows_of(groups),
            passing=[] if result.per_class.empty else passing(result.per_class, work.own),
            recommended=found.recommended,
            regret=found.regret,
            caught=found.caught,
            place=recorded.place,
        )
        how = settings_sentence(event.protocol, event.alpha, event.bootstraps, event.repeats)
        shares = share_table(event.rows)
        details = "\n\n".join([as_markdown(shares), f"{shares.description} {how}"])
        recorded.finish(event, _result_line(result, work), details)
    return event


def _background_scores(work: OodWork, recorded: EvaluationRun) -> dict[tuple[str, str], pd.DataFrame]:
    """Return the score tables of the background model by (label of the data set, split); none without such a model."""
    evaluation = work.evaluation
    if evaluation.background is None:
        return {}

    name = evaluation.background.model.name

    def show_name(event: Event) -> None:
        recorded.show(replace(event, background_model=name) if isinstance(event, Scored) else event)

    return evaluation.background.scores(recorded, show_name)


def _write_tables(result: OodResult, groups: pd.DataFrame, found: Drift, recorded: EvaluationRun) -> None:
    shares = share_table(rows_of(result.ratios))
    for name, table in (
        ("ood", result.ratios),
        ("ood_power", result.power),
        ("ood_per_class", result.per_class),
        ("ood_control", result.control),
        ("ood_ratios", pd.DataFrame([map(str, row) for row in shares.rows], columns=list(shares.head))),
        ("ood_detectors", detector_table(result.ratios).reset_index()),
        *([] if groups.empty else [("ood_groups", groups)]),
        *found.tables.items(),
    ):
        table.columns = table.columns.map(str)
        recorded.table(table, name)


def detector_table(ratios: pd.DataFrame) -> pd.DataFrame:
    """Arrange AUROCs in a table.

    There is one row per (data set, batch size M), and one column per detector of `DETECTORS` that was used.
    """
    told = ratios[ratios["detector"].isin(DETECTORS)].dropna(subset=["auroc"])
    table = told.pivot(index=["dataset", "batch_size"], columns="detector", values="auroc")
    return table.reindex(list(dict.fromkeys(zip(told["dataset"], told["batch_size"], strict=True))))[
        list(dict.fromkeys(told["detector"]))
    ]


def _figures(
    result: OodResult, tests: Mapping[str, pd.DataFrame], found: Drift, work: OodWork
) -> Iterator[tuple[str, Figure]]:
    """Yield names of files, without an ending, and figures."""
    model, alpha = work.evaluation.model.title, work.settings.alpha
    everything = pd.concat(tests.values(), ignore_index=True)
    yield "nll_histogram", pictures.nll_histogram(everything, f"NLL of test images under {model}")
    yield "ood_ratio", pictures.ood_ratio_curve(result.power, f"Typicality test under {model}", alpha, work.own)
    for m in sorted(work.settings.batch_sizes):
        curves = {}
        own = result.statistics["typicality", work.own, m]
        for name in work.others:
            curve = roc_curve(own, result.statistics["typicality", name, m])
            row = result.ratios.query("detector == 'typicality' and dataset == @name and batch_size == @m").iloc[0]
            curves[name] = (curve.false_positives, curve.true_positives, float(row["auroc"]))
        yield f"roc-M{m}", pictures.roc_curves(curves, f"{work.own} against others by typicality, M = {m}")
    smallest = min(work.settings.batch_sizes)
    for name in (work.own, *work.others):
        rows = result.per_class[(result.per_class["dataset"] == name) & (result.per_class["batch_size"] == smallest)]
        if len(rows) > 1:
            title = f"{name}: called OOD by typicality, M = {smallest}, by class"
            yield f"per_class-{name}", pictures.per_class_bars(rows, title, alpha)
    if "ood_corruptions" in found.tables:
        for detector, rows in found.tables["ood_corruptions"].groupby("detector", sort=False):
            title = f"Corruptions that the detector {detector} notices, {model}"
            yield f"corruptions-{detector}", pictures.corruption_grid(rows, title)


def _metrics(
    result: OodResult, scores: Mapping[tuple[str, str], pd.DataFrame], work: OodWork
) -> tuple[dict[str, float], dict[str, tuple[str, str]]]:
    """Return metrics by name, and the data set and split of those that have one.

    Those of typicality have no prefix, those of others the detector's name as prefix.
    """
    metrics: dict[str, float] = {}
    images: dict[str, tuple[str, str]] = {}
    for row in rows_of(result.ratios[result.ratios["detector"].isin(DETECTORS)]):
        prefix = "" if row["detector"] == "typicality" else f"{row['detector']}/"
        where = f"{row['dataset']}/M{row['batch_size']}"
        found = {"ood_ratio": row["ratio"]}
        found |= {name: row[name] for name in ("auroc", "aupr", "fpr95") if np.isfinite(row[name])}
        metrics |= {f"{prefix}{name}/{where}": value for name, value in found.items()}
        images |= {f"{prefix}{name}/{where}": (row["dataset"], "test") for name in found}
        if not prefix and row["dataset"] == work.own:
            metrics[f"threshold/M{row['batch_size']}"] = row["threshold"]
    for (name, split), table in scores.items():
        metrics[f"non_finite/{name}/{split}"] = float((~table["finite"]).sum())
        images[f"non_finite/{name}/{split}"] = name, split
    return metrics, images


def _group_metrics(groups: pd.DataFrame) -> dict[str, float]:
    """Return the mean AUROCs over near and far data sets by metric name, such as ``joint/auroc/near/M1``."""
    found = {}
    for row in rows_of(groups[groups["detector"].isin(DETECTORS)]):
        prefix = "" if row["detector"] == "typicality" else f"{row['detector']}/"
        found[f"{prefix}auroc/{row['dataset'].partition(',')[0]}/M{row['batch_size']}"] = row["auroc"]
    return found


def _result_line(result: OodResult, work: OodWork) -> str:
    """Return one line with the share of batches of the smallest size that `typicality` calls OOD, per data set."""
    m = min(work.settings.batch_sizes)
    rows = result.ratios.query("detector == 'typicality' and batch_size == @m")
    shares = ", ".join(f"{row['dataset']} {100 * row['ratio']:.3g} %" for row in rows_of(rows))
    return f"called OOD at M = {m}: {shares}"


# Corrupted images.


@dataclass(frozen=True)
class Drift:
    """The results of an OOD job on corrupted images. All fields are None or empty if no corrupted images were scored.

    Attributes:
        recommended: name of the detector with the highest mean AUROC over all corruptions of held-out images.
        regret: for each tested data set and batch size M, the AUROC of the recommended detector, and the highest AUROC
            of any detector.
        caught: for each corruption of the test images and each severity, the smallest M at which the recommended
            detector notices the corruption; empty without ``--corruptions``.
        tables: tables to write into MLflow, by name.
    """

    recommended: str | None
    regret: list[Row]
    caught: list[Row]
    tables: dict[str, pd.DataFrame]


def corrupted_images(
    spec: OodSpec, own: str, images: Mapping[tuple[str, str], LazyDataset]
) -> dict[tuple[str, str], LazyDataset]:
    """Return the corrupted images to score, in addition to the data sets of the job.

    Args:
        spec: the settings.
        own: name of the data set that the model was trained on.
        images: data sets of the job by (name, split).

    Returns:
        Corrupted images by (name, split): always those of the validation split, and with ``--corruptions`` also those
        of the test split. Empty if the protocol holds out no images.

    Raises:
        SpecError: if ``--corruptions`` is given and the protocol holds out no images.
    """
    held_out = images.get((own, "validation"))
    if held_out is None:
        if spec.corruptions:
            raise SpecError(
                "--corruptions takes its thresholds from held-out images, but --protocol split-test holds none out",
                remedy="leave out --corruptions or --protocol split-test",
                code="corruptions-without-held-out",
            )
        return {}
    found = {(_name(own), "validation"): for_recommendation(held_out, spec.seed)}
    if spec.corruptions:
        test = images[own, "test"]
        found[_name(own), "test"] = all_corrupted(test, spec.corruptions, SEVERITIES, spec.corruption_images, spec.seed)
    return found


def _proxies(aurocs: pd.DataFrame) -> str:
    """Return a sentence on what corruptions and new classes would each recommend, from `Recommendation.aurocs`."""
    by_corruptions = aurocs.drop(columns=[NEW_CLASSES, "mean"]).mean(axis=1).idxmax()
    return (
        f"corruptions alone would recommend {by_corruptions}, held-out images of the left-out classes alone "
        f"{aurocs[NEW_CLASSES].idxmax()}; both count half for the recommendation of {aurocs['mean'].idxmax()}"
    )


def _name(own: str) -> str:
    return f"{own}-{CORRUPTED}"


def drift(work: OodWork, detectors: list[Detector], scores: Scores, result: OodResult) -> Drift:
    """Recommend a detector, and test which corruptions this detector and the typicality test notice.

    Args:
        work: the evaluation.
        detectors: the fitted detectors.
        scores: all score tables of the job.
        result: the results on the other data sets. They show how much better the best detector is than the recommended
            one (`Drift.regret`).

    Raises:
        ValueError: if too many scores are not finite.
    """
    tables: dict[str, pd.DataFrame] = {}
    recommended, costs, caught = None, [], []
    name, own, spec = dataset_label(_name(work.evaluation.trained_on)), work.own, work.evaluation.spec
    if (name, "validation") in scores:
        unknown = scores.get((dataset_label(f"{work.evaluation.trained_on}-left-out"), "validation"))
        chosen = recommend(detectors, scores[own, "validation"], scores[name, "validation"], CORRUPTIONS, unknown)
        recommended = chosen.detector
        costs = rows_of(regret(result.ratios, recommended))
        tables["ood_recommended"] = chosen.aurocs.reset_index()
    if spec.corruptions:
        asked = [each for each in detectors if each.name in {recommended, "typicality"}]
        kinds = [f"{corruption}{severity}" for corruption in spec.corruptions for severity in SEVERITIES]
        power = corruption_power(asked, scores[own, "validation"], scores[name, "test"], kinds, work.settings)
        caught = _caught(power[power["detector"] == recommended])
        tables["ood_corruptions"] = power
    return Drift(recommended, costs, caught, tables)


def _caught(power: pd.DataFrame) -> list[Row]:
    least = pictures.batch_sizes_that_catch(power)
    return [
        {"corruption": str(corruption), "batch_sizes": [int(m) if np.isfinite(m) else None for m in row]}
        for corruption, row in zip(least.index, least.to_numpy(), strict=True)
    ]
