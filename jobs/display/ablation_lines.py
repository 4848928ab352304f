"""What an ablation says on the screen and in Markdown."""

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
    Repaired,
    Restart,
    Started,
    TrialEnded,
    TrialEvent,
)
from jobs.display.rows import Difference
from jobs.display.training_lines import epoch_line
from jobs.specs.ablation import values_label
from jobs.text import Row, bits, count, markdown_table, numbers, plain, text_table
from jobs.tracking import Champion

__all__ = ["ABLATION_LINES", "configuration_rows", "difference_rows", "summary_markdown"]

MOST_LABELS = 12
"""The most trials that are listed before they start."""


def plan_lines(event: Plan) -> str:
    each = count(event.cpus, "core") + (f" and {count(event.gpus, 'GPU')}" if event.gpus else "")
    workers = "" if event.workers == 1 else f" for each of {event.workers} workers"
    lines = [
        f"{count(event.trials, 'trial')}: {count(event.configurations, 'configuration')} x "
        f"{count(event.seeds, 'seed')}, {count(event.epochs, 'epoch')} each",
        f"each trial takes {each}{workers}; {event.at_a_time} run at a time",
    ]
    labels = event.labels
    if labels:
        more = f", and {len(labels) - MOST_LABELS} more" if len(labels) > MOST_LABELS else ""
        lines.append("trials: " + ", ".join(labels[:MOST_LABELS]) + more)
    return "\n".join(lines)


def repaired_lines(event: Repaired) -> str:
    if not event.added:
        return f"{event.run}: the record lacks nothing that the checkpoints know"
    return "\n".join(f"{name}: added {numbers('epoch', epochs)}" for name, epochs in event.added.items())


def ablating_line(event: Ablating) -> str:
    return f"ablation {event.run}, run {event.run_id}"


def trial_line(event: TrialEvent) -> str | None:
    """A line of what a trial's training says; None for its steps."""
    match event.said:
        case Started(epoch=0):
            told = "started"
        case Started(epoch=epoch):
            told = f"started after epoch {epoch}"
        case Epoch() as epoch_event:
            told = epoch_line(epoch_event)
        case Restart(epoch=epoch, restarts=restarts):
            told = f"restarted after epoch {epoch} (restart {restarts})"
        case _:
            return None
    return f"[{event.trial}] {told}"


def trial_ended_line(event: TrialEnded) -> str:
    where = f"({event.ended} of {event.of})"
    if event.state == "finished":
        return f"[{event.trial}] finished: test {bits(event.test_bits_per_dim)} bits/dim {where}"
    return f"[{event.trial}] {event.state}: {event.reason} {where}"


def stopped_line(event: AblationStopped) -> str:
    return f"stopped; to go on where each trial stood: glowctl ablate --resume {event.run_id}"


def ablated_lines(event: AblationSummary) -> str:
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
    """The scores of the best trial, and which model has the alias `champion`."""
    scores = f"validation {bits(best['validation_bits_per_dim'])}, test {bits(best['test_bits_per_dim'])} bits/dim"
    if champion is None:
        return f"{best['trial']}: {scores}"
    if champion.run_id == best["run_id"]:
        return f"{best['trial']}: {scores}; it is {champion.uri}"
    stays = "scored lower on the same images and stays" if champion.scored_lower else "is"
    return f"{best['trial']}: {scores}; {champion.uri} {stays} run {champion.run_id}"


def configuration_rows(configurations: Sequence[Row], factors: Sequence[str]) -> list[list[str]]:
    """Headings and cells of the table of configurations. GPU-seconds are left out where there are none."""
    gpus = any(row["gpu_seconds"] > 0 for row in configurations)
    head = ["test bits/dim", "95 % interval", "best", "validation", "seeds", "images/s", "parameters", "core-seconds"]
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
    """Headings and cells of the table of paired differences."""
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
    return f"{value:+.3f}" if math.isfinite(value) else "-"


def whole(value: float) -> str:
    return f"{value:.0f}" if math.isfinite(value) else "-"


def summary_markdown(summary: AblationSummary) -> str:
    """The summary as a document, less its heading."""
    best, champion = summary.best, summary.champion
    parts = ["\n".join(f"- {sentence}" for sentence in [*summary.conclusions, *summary.unfinished])]
    parts.append(f"{summary.finished} of {count(summary.trials, 'trial')} finished.")
    if best is not None:
        parts.append(f"Best by validation: run {best['run_id']}, {best_line(best, champion)}.")
    parts.append(
        "Test NLL in bits/dim of the best model of each trial by validation; means over seeds, with 95 % t intervals:"
    )
    parts.append(markdown_table(configuration_rows(summary.configurations, summary.factors)))
    if summary.differences:
        parts.append(
            "Paired differences in test NLL, a less b, at equal seed and all else equal, with p adjusted by Holm:"
        )
        parts.append(markdown_table(difference_rows(summary.differences)))
    return "\n\n".join(part for part in parts if part) + "\n"


ABLATION_LINES: dict[type[Event], Callable[[Any], str | None]] = {
    Plan: plan_lines,
    Repaired: repaired_lines,
    Ablating: ablating_line,
    TrialEvent: trial_line,
    TrialEnded: trial_ended_line,
    AblationStopped: stopped_line,
    AblationSummary: ablated_lines,
}
