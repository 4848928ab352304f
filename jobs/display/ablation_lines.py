"""The events of an ablation as lines and tables of text, and its summary as Markdown."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from jobs.display.events import (
    Ablating,
    AblationStopped,
    AblationSummary,
    Epoch,
    Event,
    Plan,
    Restart,
    Started,
    TrialEnded,
    TrialEvent,
)
from jobs.display.rows import Difference
from jobs.display.training_lines import epoch_line
from jobs.specs.ablation import values_label
from jobs.text import Row, bits, count, markdown_table, plain, text_table
from jobs.tracking import Champion

__all__ = ["ABLATION_LINES", "configuration_rows", "difference_rows", "summary_markdown"]

MOST_LABELS = 12
"""Largest number of trials that are listed before they start."""


def plan_lines(event: Plan) -> str:
    """Return the number of trials, what each of them uses, and the labels of the first `MOST_LABELS`."""
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


def ablating_line(event: Ablating) -> str:
    """Return the name and the id of the ablation's run."""
    return f"ablation {event.run!r}, run {event.run_id}"


def trial_line(event: TrialEvent) -> str | None:
    """Return an event of a trial's training as a line; None for events without one, such as steps and resizes."""
    match event.said:
        case Started(epoch=0):
            told = "started"
        case Started(epoch=epoch):
            told = f"continued after epoch {epoch}"
        case Epoch() as epoch_event:
            told = epoch_line(epoch_event)
        case Restart(epoch=epoch, restarts=restarts):
            told = f"restarted after epoch {epoch} (restart {restarts})"
        case _:
            return None
    return f"[{event.trial}] {told}"


def trial_ended_line(event: TrialEnded) -> str:
    """Return the score of a finished trial, or why a trial ended without one, and how many trials have ended."""
    where = f"({event.ended} of {event.of})"
    if event.state == "finished":
        return f"[{event.trial}] finished: test {bits(event.test_bits_per_dim)} bits/dim {where}"
    return f"[{event.trial}] {event.state}: {event.reason} {where}"


def stopped_line(event: AblationStopped) -> str:
    """Return the command that continues an ablation."""
    return f"stopped; to continue each trial from its last checkpoint, run: glowctl ablate --resume {event.run_id}"


def ablated_lines(event: AblationSummary) -> str:
    """Return the tables of a finished ablation, its conclusions, and where its results are."""
    parts = [text_table(configuration_rows(event.configurations, event.factors))]
    if event.differences:
        parts.append(text_table(difference_rows(event.differences)))
    parts.append("\n".join([*event.conclusions, *event.unfinished]))
    parts.append(
        "\n".join(
            [
                *([f"best      {best_line(event.best, event.champion)}"] if event.best else []),
                f"results   {event.place}",
                f"run       {event.run_id}; to see it: {event.open_with}",
            ]
        )
    )
    return "\n\n".join(part for part in parts if part)


def best_line(best: Row, champion: Champion | None) -> str:
    """Return the scores of the best trial, and which model has the alias `champion`."""
    scores = f"validation {bits(best['validation_bits_per_dim'])}, test {bits(best['test_bits_per_dim'])} bits/dim"
    if champion is None:
        return f"{best['trial']}: {scores}"
    if champion.run_id == best["run_id"]:
        return f"{best['trial']}: {scores}; its model is the champion, {champion.uri}"
    why = ", which scored lower on the same images" if champion.scored_lower else ""
    return f"{best['trial']}: {scores}; the champion {champion.uri} is that of run {champion.run_id}{why}"


def configuration_rows(configurations: Sequence[Row], factors: Sequence[str]) -> list[list[str]]:
    """Return the heading and the rows of the table of configurations.

    The column of GPU-seconds is left out if no trial used a GPU.
    """
    gpus = any(row["gpu_seconds"] > 0 for row in configurations)
    head = ["test bits/dim", "95 % interval", "best seed", "validation"]
    head += ["seeds", "images/s", "parameters", "core-seconds"]
    rows = [["configuration", *head, *(["GPU-seconds"] if gpus else [])]]
    for row in configurations:
        low, high = row["bits_per_dim_low"], row["bits_per_dim_high"]
        rows.append(
            [
                values_label({factor: row[factor] for factor in factors}),
                bits(row["bits_per_dim"]),
                f"{bits(low)} to {bits(high)}" if math.isfinite(low) else "-",
                bits(row["best"]),
                bits(row["validation_bits_per_dim"]),
                f"{row['seeds']}" + (f" of {row['seeds'] + row['unfinished']}" if row["unfinished"] else ""),
                *(whole(row[name]) for name in ("images_per_second", "parameters", "core_seconds")),
                *([whole(row["gpu_seconds"])] if gpus else []),
            ]
        )
    return rows


def difference_rows(differences: Sequence[Difference]) -> list[list[str]]:
    """Return the heading and the rows of the table of paired differences."""
    rows = [["a - b", "difference", "95 % interval", "p (Holm)", "seeds", "configurations"]]
    for row in differences:
        low, high = row.low, row.high
        rows.append(
            [
                f"{row.factor} {plain(row.a)} - {plain(row.b)}",
                signed(row.difference),
                f"{signed(low)} to {signed(high)}" if math.isfinite(low) else "-",
                f"{row.p_holm:.3f}" if math.isfinite(row.p_holm) else "-",
                str(row.seeds),
                str(row.configurations),
            ]
        )
    return rows


def signed(value: float) -> str:
    """Return a number with its sign and three decimals; a dash if it is not finite.

    Example:
        >>> signed(0.1), signed(math.nan)
        ('+0.100', '-')
    """
    return f"{value:+.3f}" if math.isfinite(value) else "-"


def whole(value: float) -> str:
    """Return a number without decimals; a dash if it is not finite.

    Example:
        >>> whole(99.7), whole(math.nan)
        ('100', '-')
    """
    return f"{value:.0f}" if math.isfinite(value) else "-"


def summary_markdown(summary: AblationSummary) -> str:
    """Return the summary as a Markdown document without a heading."""
    best, champion = summary.best, summary.champion
    parts = ["\n".join(f"- {sentence}" for sentence in [*summary.conclusions, *summary.unfinished])]
    parts.append(f"{summary.finished} of {count(summary.trials, 'trial')} finished.")
    if best is not None:
        parts.append(f"Best trial by validation: run {best['run_id']}, {best_line(best, champion)}.")
    parts.append(
        "Test NLL in bits/dim, of each trial's best model by validation; means over seeds, with 95 % t intervals:"
    )
    parts.append(markdown_table(configuration_rows(summary.configurations, summary.factors)))
    if summary.differences:
        parts.append(
            "Paired differences in test NLL, a minus b, between trials of the same seed that differ in this factor "
            "only; p values are adjusted by Holm's method:"
        )
        parts.append(markdown_table(difference_rows(summary.differences)))
    return "\n\n".join(part for part in parts if part) + "\n"


ABLATION_LINES: dict[type[Event], Callable[[Any], str | None]] = {
    Plan: plan_lines,
    Ablating: ablating_line,
    TrialEvent: trial_line,
    TrialEnded: trial_ended_line,
    AblationStopped: stopped_line,
    AblationSummary: ablated_lines,
}
