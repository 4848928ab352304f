"""Each kind of event as lines of text, and the summary of an ablation as Markdown."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from glowctl.display import events, tables
from glowctl.text import Row, bits, count, duration

MOST_LABELS = 12
"""Largest number of trials that are listed before they start."""


def text_of(event: events.Event) -> str | None:
    """Return an event as text; None for one that only a live display shows, and for steps and resizes of a trial."""
    line = LINES.get(type(event))
    return None if line is None else line(event)


def progress_of(event: events.Event) -> str | None:
    """Return what an event without a line says about the progress of its job, in a line; None if it says nothing."""
    match event:
        case events.Step():
            return f"epoch {event.epoch}/{event.epochs}  {step_figures(event)}"
        case events.Packing():
            return f"packing   {image_figures(event)}"
        case events.Scoring():
            return f"scoring {event.dataset} {event.split}  {image_figures(event)}"
        case events.Watching():
            return f"watching  {_evidence(event)}"
        case events.TrialEvent(said=said):
            text = progress_of(said)
            return None if text is None else f"[{event.trial}] {text}"
    return None


def step_figures(event: events.Step) -> str:
    """Return the figures of a step in a line."""
    return f"step {event.step}/{event.steps}  {scores_and_pace(event)}"


def image_figures(event: events.Packing | events.Scoring) -> str:
    """Return how many images are packed or scored, and the speed, in a line."""
    return f"{event.images:,}/{event.of:,} images  {event.images_per_second:.0f} images/s"


# Jobs on a cluster, and data.


def _submitted(event: events.Submitted) -> str:
    job = event.job
    left = f"; to follow it: glowctl logs -f {job}; to stop it: glowctl stop {job}" if event.detached else ""
    return f"submitted job {job} to {event.address}{left}"


def _waiting(event: events.Waiting) -> str:
    each = count(event.cpus, "core") + (f" and {count(event.gpus, 'GPU')}" if event.gpus else "")
    free = f"{count(event.free_cpus, 'core')} and {count(event.free_gpus, 'GPU')}"
    can = f"the cluster can add {count(event.to_come, 'machine')}" if event.to_come else "the cluster adds no machine"
    return f"waiting for {count(event.workers, 'worker')} with {each} each: {free} are free now, and {can}"


def _estimated(event: events.Estimated) -> str:
    gpu = "" if event.gpu_memory_megabytes is None else f" and {event.gpu_memory_megabytes:,.0f} MB of its GPU"
    parts = [
        f"about {duration(event.seconds)} on {count(event.units, event.unit)}",
        f"{event.memory_megabytes:,.0f} MB of memory{gpu} per worker",
        f"{event.disk_megabytes:,.0f} MB of disk",
        *([f"{event.network_megabytes:,.0f} MB over the network"] if event.network_megabytes else []),
        *([] if event.price is None else [f"price {event.price:.2f}"]),
    ]
    return f"estimate  {', '.join(parts)}"


def _packed(event: events.Packed) -> str:
    images = ", ".join(f"{number:,} {split}" for split, number in event.images.items())
    shape = "x".join(map(str, event.image_shape))
    lines = [f"packed    {images} images of {shape} in {duration(event.seconds)}"]
    if event.left_out:
        files = count(event.left_out, "file")
        lines.append(f"left out  {files} that could not be read, listed in {event.place}/left-out.txt")
    return "\n".join([*lines, f"to use    --dataset packed:{event.place}"])


# A training.


def _started(event: events.Started) -> str:
    workers = count(event.workers, "worker")
    ready = f"ready in {event.startup_seconds or 0:.0f} s"
    return f"training on {workers} ({event.device}), {ready}: {event.run!r}, run {event.run_id}"


def scores_and_pace(event: events.Step | events.Epoch) -> str:
    """Return the scores, the speed and the time left of a training that runs."""
    return (
        f"train {event.train_bits_per_dim:.3f}  validation {bits(event.validation_bits_per_dim)} bits/dim  "
        f"{event.images_per_second:.0f} images/s  {duration(event.seconds_left)} left"
    )


def _epoch(event: events.Epoch) -> str:
    skipped = f", {count(event.skipped_steps, 'step')} skipped so far" if event.skipped_steps else ""
    return f"epoch {event.epoch}/{event.epochs}  {scores_and_pace(event)}{skipped}"


def _reached(event: events.AttemptStarted) -> str:
    """Return how far the training was at the checkpoint from which it continues, such as "epoch 3 and 20 steps"."""
    return f"epoch {event.epoch}" + (f" and {count(event.step, 'step')}" if event.step else "")


def _restart(event: events.Restart) -> str:
    return f"a worker was lost: training restarted after {_reached(event)} (restart {event.restarts})"


def _resize(event: events.Resize) -> str:
    return f"there is room for more workers: training continues with {event.workers} after {_reached(event)}"


def sizes_sentence(result: events.TrainResult) -> str:
    """Return the test set's bits/dim at the model's image size, and per original pixel if the images were padded."""
    (_, height, width), (_, old_height, old_width) = result.image_shape, result.original_shape
    at = f"{result.test_bits_per_dim:.3f} bits/dim at {height}x{width}"
    if (height, width) == (old_height, old_width):
        return at
    if height < old_height or width < old_width:
        return f"{at}, shrunk from {old_height}x{old_width}"
    return f"{at}, {result.test_bits_per_dim_original:.3f} per original pixel ({old_height}x{old_width})"


def _trained(event: events.TrainResult) -> str:
    return "\n".join(
        [
            f"test      {sizes_sentence(event)}",
            f"trained   in {duration(event.seconds)} at {event.images_per_second:.0f} images/s; the model of epoch "
            f"{event.best_epoch} is the best by validation",
            f"samples   {event.sample_grid}",
            f"model     {event.model} in MLflow" + (f"; files in {event.checkpoint}" if event.checkpoint else ""),
            _run(event),
        ]
    )


# An ablation.


def _plan(event: events.Plan) -> str:
    each = count(event.cpus, "core") + (f" and {count(event.gpus, 'GPU')}" if event.gpus else "")
    workers = "" if event.workers == 1 else f" for each of {event.workers} workers"
    lines = [
        f"{count(event.trials, 'trial')}: {count(event.configurations, 'configuration')} x "
        f"{count(event.seeds, 'seed')}, {count(event.epochs, 'epoch')} each",
        f"each trial uses {each}{workers}; {count(event.at_a_time, 'trial')} at a time",
    ]
    labels = event.labels
    if labels:
        more = f", and {len(labels) - MOST_LABELS} more" if len(labels) > MOST_LABELS else ""
        lines.append("trials: " + ", ".join(labels[:MOST_LABELS]) + more)
    return "\n".join(lines)


def _of_trial(event: events.TrialEvent) -> str | None:
    match event.said:
        case events.Started(epoch=0):
            text = "started"
        case events.Started(epoch=epoch):
            text = f"continued after epoch {epoch}"
        case events.Epoch() as said:
            text = _epoch(said)
        case events.Restart(epoch=epoch, restarts=restarts):
            text = f"restarted after epoch {epoch} (restart {restarts})"
        case _:
            return None
    return f"[{event.trial}] {text}"


def _trial_ended(event: events.TrialEnded) -> str:
    where = f"({event.ended} of {event.of})"
    if event.state == "finished":
        return f"[{event.trial}] finished: test {bits(event.test_bits_per_dim)} bits/dim {where}"
    return f"[{event.trial}] {event.state}: {event.reason} {where}"


def _ablated(event: events.AblationSummary) -> str:
    parts = [tables.as_text(tables.configuration_table(event.configurations, event.factors))]
    parts += [tables.as_text(tables.difference_table(event.differences))] if event.differences else []
    parts.append("\n".join([*event.conclusions, *event.unfinished]))
    best = [f"best      {_best(event, event.best)}"] if event.best else []
    parts.append("\n".join([*best, f"results   {event.place}", _run(event)]))
    return "\n\n".join(part for part in parts if part)


def _best(summary: events.AblationSummary, best: Row) -> str:
    """Return the scores of the best trial, and which model has the alias `champion`."""
    scores = f"validation {bits(best['validation_bits_per_dim'])}, test {bits(best['test_bits_per_dim'])} bits/dim"
    champion = summary.champion
    if champion is None:
        return f"{best['trial']}: {scores}"
    if champion["run_id"] == best["run_id"]:
        return f"{best['trial']}: {scores}; its model is the champion, {summary.champion_uri}"
    why = ", which scored lower on the same images" if champion["scored_lower"] else ""
    return f"{best['trial']}: {scores}; the champion {summary.champion_uri} is that of run {champion['run_id']}{why}"


def summary_markdown(summary: events.AblationSummary) -> str:
    """Return the summary as a Markdown document without a heading."""
    parts = ["\n".join(f"- {sentence}" for sentence in [*summary.conclusions, *summary.unfinished])]
    parts.append(f"{summary.finished} of {count(summary.trials, 'trial')} finished.")
    if summary.best is not None:
        parts.append(f"Best trial by validation: run {summary.best['run_id']}, {_best(summary, summary.best)}.")
    shown = [tables.configuration_table(summary.configurations, summary.factors)]
    shown += [tables.difference_table(summary.differences)] if summary.differences else []
    for table in shown:
        parts += [table.description, tables.as_markdown(table)]
    return "\n\n".join(part for part in parts if part) + "\n"


# An evaluation.


def _scored(event: events.Scored) -> str:
    bad = f" ({event.non_finite:,} with a score that is not finite)" if event.non_finite else ""
    known = f" (scored by run {event.from_run})" if event.from_run else ""
    by = f" by the background model {event.background_model}" if event.background_model else ""
    by = f" by the encoder {event.encoder}" if event.encoder else by
    return f"scored {event.dataset} {event.split}{by}: {event.images:,} images{bad}{known}"


def _nll(event: events.Nll) -> str:
    parts = [tables.as_text(tables.nll_table(event.rows, event.split))]
    parts += [tables.as_text(tables.bound_table(event.bounds))] if event.bounds else []
    return "\n\n".join([*parts, tables.as_text(tables.class_table(event.per_class)), _where(event, event.place)])


def _samples(event: events.Samples) -> str:
    temperatures = ", ".join(f"{temperature:g}" for temperature in event.temperatures)
    at = "temperature" if len(event.temperatures) == 1 else "each of the temperatures"
    drawn = f"{count(event.images, 'sample')} at {at} {temperatures}"
    return f"{drawn}{_not_finite(event)}\n" + _where(event, *event.pictures)


def _interpolation(event: events.Interpolation) -> str:
    rows = f"{count(event.pairs, 'row')} of {event.steps} images, {event.mode} interpolation"
    ends = tables.ends_sentence(event.end_error, event.inexact_rows, 2**event.bits)
    return f"{rows}. {ends}{_not_finite(event)}\n" + _where(event, event.picture)


def _not_finite(event: events.Samples | events.Interpolation) -> str:
    """Return the line on images with pixels that are not finite, after a line break; empty if there are none."""
    if not event.non_finite:
        return ""
    verb = "has" if event.non_finite == 1 else "have"
    have = f"\n{count(event.non_finite, 'image')} {verb} pixels that are not finite"
    if (event.coupling, event.scale) != ("affine", "sigmoid"):
        return have
    return (
        f"{have}: the inverse of a coupling with --scale sigmoid divides by numbers without a lower bound; train with "
        "--scale floored, which makes such pixels less likely"
    )


def _ood(event: events.Ood) -> str:
    judges = list(dict.fromkeys(["typicality", event.recommended or "typicality"]))
    parts = [tables.settings_sentence(event.protocol, event.alpha, event.bootstraps, event.repeats)]
    parts += [tables.as_text(tables.share_table(event.rows, detector)) for detector in judges]
    parts.append(tables.as_text(tables.auroc_table(event.rows), below=False))
    if event.groups:
        parts.append(tables.as_text(tables.group_table(event.groups), below=False))
    if event.passing:
        parts.append(tables.passing_sentence(event.passing))
    if event.recommended is not None:
        parts.append(tables.as_text(tables.regret_table(event.rows, event.regret, event.recommended)))
    if event.caught:
        parts.append(tables.as_text(tables.caught_table(event.caught, max(row["batch_size"] for row in event.rows))))
    parts.append(tables.control_sentence(event.control, event.in_distribution, event.alpha, judges))
    return "\n\n".join([*parts, _where(event, event.place)])


def _ood_trainings(event: events.OodTrainings) -> str:
    parts = [tables.as_text(table) for table in tables.trainings_tables(event.rows)]
    return "\n\n".join([*parts, _where(event, event.place)])


def _check(event: events.Check) -> str:
    parts = [f"verdict   {tables.verdict_sentence(event)}", *tables.image_sentences(event)]
    parts = ["\n".join(parts), tables.as_text(tables.furthest_table(event))]
    return "\n\n".join([*parts, *([] if event.place is None else [_where(event, event.place)])])


def _evidence(event: events.Watching | events.Watched) -> str:
    unreadable = f", {event.unreadable:,} unreadable" if event.unreadable else ""
    alarms = f", {count(event.alarms, 'alarm')}" if event.alarms else ""
    evidence = f"evidence {event.evidence:.1f}, alarm at {event.threshold:.1f}"
    return f"{count(event.images, 'image')}, {evidence}{unreadable}{alarms}"


def _alarm(event: events.Alarm) -> str:
    since = f"the stream changed between images {event.earliest:,} and {event.latest:,}, most likely at {event.start:,}"
    how = "higher" if event.higher else "lower"
    return "\n".join(
        [
            f"ALARM     after image {event.image:,} ({event.file})",
            f"          {since}" + (f" ({event.start_file})" if event.start_file else ""),
            f"          scores of {event.detector} are {how} than those of images that belong; see {event.picture}",
        ]
    )


def _watched(event: events.Watched) -> str:
    return "\n".join([f"watched   {_evidence(event)}", _where(event, event.place)])


def _rehearsed(event: events.Rehearsed) -> str:
    alarms = f"{count(event.alarms, 'alarm')} in {count(event.images, 'image')}, and {event.shuffled} in random order"
    return f"rehearsed {alarms}; the guarantee allows {event.allowed}\nto do     {event.advice}"


def _where(event: events.Recorded | events.Check, *places: str) -> str:
    return "".join(f"results   {place}\n" for place in places) + _run(event)


def _run(event: events.Recorded | events.Reported | events.Check) -> str:
    return f"run       {event.run_id}; to see it: {event.open_with}"


# A report.


def _reported(event: events.Reported) -> str:
    lines = [f"missing   {sentence}" for sentence in event.missing]
    return "\n".join([*lines, f"report    {event.html}", f"          {event.markdown}", _run(event)])


LINES: dict[type[events.Event], Callable[[Any], str | None]] = {
    events.Submitted: _submitted,
    events.Waiting: _waiting,
    events.Noted: lambda event: f"note: {event.message}",
    events.Packed: _packed,
    events.Estimated: _estimated,
    events.Started: _started,
    events.Epoch: _epoch,
    events.Restart: _restart,
    events.Resize: _resize,
    events.Stopped: lambda event: (
        f"stopped; to continue from the last checkpoint, run: glowctl train --resume {event.run_id}"
    ),
    events.TrainResult: _trained,
    events.Plan: _plan,
    events.Ablating: lambda event: f"ablation {event.run!r}, run {event.run_id}",
    events.TrialEvent: _of_trial,
    events.TrialEnded: _trial_ended,
    events.AblationStopped: lambda event: (
        f"stopped; to continue each trial from its last checkpoint, run: glowctl ablate --resume {event.run_id}"
    ),
    events.AblationSummary: _ablated,
    events.Evaluating: lambda event: f"{event.job} of model {event.model!r}, run {event.run_id}",
    events.Absent: lambda event: str(event.message),
    events.Scored: _scored,
    events.Nll: _nll,
    events.Samples: _samples,
    events.Interpolation: _interpolation,
    events.Ood: _ood,
    events.OodTrainings: _ood_trainings,
    events.Check: _check,
    events.Alarm: _alarm,
    events.Watched: _watched,
    events.Rehearsed: _rehearsed,
    events.Reported: _reported,
}
"""For each kind of event that has a text, the function that returns it."""
