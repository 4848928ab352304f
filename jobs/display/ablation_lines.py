"""What an ablation says on the screen and in Markdown. Its events, dicts with a key ``event``:

- ``plan``: trials, configurations, seeds, at_a_time, workers, cpus, gpus (of each worker), epochs, labels
- ``ablating``: run, run_id, finished (labels of trials that had, when an ablation is resumed)
- ``ablation_stopped``: run_id
- ``trial_started``, ``trial_step``, ``trial_epoch``, ``trial_restart``, ``trial_ended``: see `jobs.ablation.log`
- ``ablated``: everything in `jobs.display.events.AblationSummary`
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from jobs.display.training_lines import epoch_line
from jobs.specs.ablation import values_label
from jobs.text import bits, count, markdown_table, plain, text_table

if TYPE_CHECKING:
    from jobs.display.events import AblationSummary

__all__ = ["ABLATION_LINES", "summary_markdown"]

Event = dict[str, Any]

MOST_LABELS = 12
"""Of trials that are listed before they start."""


def plan_lines(event: Event) -> str:
    each = count(event["cpus"], "core") + (f" and {count(event['gpus'], 'GPU')}" if event["gpus"] else "")
    workers = "" if event["workers"] == 1 else f" for each of {event['workers']} workers"
    lines = [
        f"{count(event['trials'], 'trial')}: {count(event['configurations'], 'configuration')} x "
        f"{count(event['seeds'], 'seed')}, {count(event['epochs'], 'epoch')} each",
        f"each trial takes {each}{workers}; {event['at_a_time']} run at a time",
    ]
    labels = event["labels"]
    if labels:
        more = f", and {len(labels) - MOST_LABELS} more" if len(labels) > MOST_LABELS else ""
        lines.append("trials: " + ", ".join(labels[:MOST_LABELS]) + more)
    return "\n".join(lines)


def ablating_line(event: Event) -> str:
    return f"ablation {event['run']}, run {event['run_id']}"


def trial_started_line(event: Event) -> str:
    after = f" after epoch {event['epoch']}" if event["epoch"] else ""
    return f"[{event['trial']}] started{after}"


def trial_epoch_line(event: Event) -> str:
    return f"[{event['trial']}] {epoch_line(event)}"


def trial_restart_line(event: Event) -> str:
    return f"[{event['trial']}] restarted after epoch {event['epoch']} (restart {event['restarts']})"


def trial_ended_line(event: Event) -> str:
    where = f"({event['ended']} of {event['of']})"
    if event["state"] == "finished":
        return f"[{event['trial']}] finished: test {bits(event['test_bits_per_dim'])} bits/dim {where}"
    return f"[{event['trial']}] {event['state']}: {event['reason']} {where}"


def stopped_line(event: Event) -> str:
    return f"stopped; to go on where each trial stood: glowctl ablate --resume {event['run_id']}"


def ablated_lines(event: Event) -> str:
    parts = [text_table(configuration_rows(event["configurations"], event["factors"]))]
    if event["differences"]:
        parts.append(text_table(difference_rows(event["differences"])))
    parts.append("\n".join([*event["conclusions"], *event["unfinished"]]))
    parts.append(
        "\n".join(
            [
                *([f"best      {best_line(event['best'], event['champion'])}"] if event["best"] else []),
                f"results   {event['place']}",
                f"run       {event['run_id']}; to see it: {event['open_with']}",
            ]
        )
    )
    return "\n\n".join(part for part in parts if part)


def best_line(best: Mapping[str, Any], champion: Mapping[str, Any]) -> str:
    scores = f"validation {bits(best['validation_bits_per_dim'])}, test {bits(best['test_bits_per_dim'])} bits/dim"
    name = f"models:/{champion['name']}@champion"
    if champion["new"]:
        return f"{best['trial']}: {scores}; it is {name}"
    return f"{best['trial']}: {scores}; {name} scored lower on the same images and stays run {champion['run_id']}"


def configuration_rows(configurations: Sequence[Mapping[str, Any]], factors: Sequence[str]) -> list[list[str]]:
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


def difference_rows(differences: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Headings and cells of the table of paired differences."""
    rows = [["a - b", "difference", "95 % interval", "p (Holm)", "seeds", "configurations"]]
    for row in differences:
        low, high = row["low"], row["high"]
        rows.append(
            [
                f"{row['factor']} {plain(row['a'])} - {plain(row['b'])}",
                signed(row["difference"]),
                f"{signed(low)} to {signed(high)}" if math.isfinite(low) else "-",
                f"{row['p_holm']:.3f}" if math.isfinite(row["p_holm"]) else "-",
                str(row["seeds"]),
                str(row["configurations"]),
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
    if best is not None and champion is not None:
        parts.append(f"Best by validation: run {best['run_id']}, {best_line(best, vars(champion))}.")
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


ABLATION_LINES: dict[str, Callable[[Event], str]] = {
    "plan": plan_lines,
    "ablating": ablating_line,
    "trial_started": trial_started_line,
    "trial_epoch": trial_epoch_line,
    "trial_restart": trial_restart_line,
    "trial_ended": trial_ended_line,
    "ablation_stopped": stopped_line,
    "ablated": ablated_lines,
}
