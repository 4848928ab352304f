"""Does the channel permutation matter? Each permutation with each network, with and without ActNorm, in equal time.

    python -m benchmarks.permutations --dataset mnist --seconds 60 --seeds 4 --table trials.csv --figure differences.png

The trials are those of `benchmarks.equal_time`: each has one core and the given seconds of its CPU time, so that other
programs take no time from it. The table gets a row for each trial when it ends; trials that are already in it are not
repeated, so the script can be stopped and started again, and the tables of several data sets and times can be one
file. The script prints the bits/dim of each permutation and the differences from 1x1, paired by seed, with 95 % t
intervals and with p-values that are Holm-adjusted over all rows of the data set and the time. The figure has the
differences against the bits/dim of the model with 1x1.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd

from benchmarks.common import parse
from benchmarks.equal_time import trial
from glow.comparison import holm, paired_differences

NETWORKS: dict[str, dict[str, Any]] = {
    "plain": {"network": "plain", "width": 64},
    "residual": {"network": "residual", "width": 32},
    "attention": {"network": "attention", "width": 32, "heads": 1},
}
"""The networks with the widths that take similar time, and the number of heads with which attention is fastest."""

CELL = ["network", "actnorm", "permutation"]
COLUMNS = ["dataset", "seconds", *CELL, "seed", "test_bits_per_dim", "images"]


def main() -> None:
    """Train what the table lacks, print the comparison, and draw the figure."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.permutations", description=__doc__)
    parser.add_argument("--dataset", default="mnist", help="data set to train on (default mnist)")
    parser.add_argument("--seconds", type=float, default=60, help="CPU time of a trial in seconds (default 60)")
    parser.add_argument("--seeds", type=int, default=4, help="number of seeds (default 4)")
    parser.add_argument("--table", type=Path, required=True, help="CSV file with a row for each trial")
    parser.add_argument("--figure", type=Path, help="picture of the differences of all trials in the table")
    asked = parse(parser)
    seconds, seeds = (1.0, 2) if asked.quick else (asked.seconds, asked.seeds)
    train(asked.dataset, seconds, seeds, asked.table)
    compared = compare(pd.read_csv(asked.table))
    print(compared.to_string(index=False, float_format="{:.4f}".format))
    if asked.figure:
        draw(compared, asked.figure)


def train(dataset: str, seconds: float, seeds: int, table: Path) -> None:
    """Add the trials of a data set and a time that the table lacks, seed after seed."""
    if not table.exists():
        table.write_text(",".join(COLUMNS) + "\n")
    known = set(pd.read_csv(table)[COLUMNS[:-2]].itertuples(index=False, name=None))
    with ProcessPoolExecutor(os.cpu_count(), get_context("spawn")) as pool:
        running = {}
        for seed, *cell in itertools.product(range(seeds), NETWORKS, ("on", "off"), ("1x1", "shuffle", "reverse")):
            row = (dataset, seconds, *cell, seed)
            if row not in known:
                network, actnorm, permutation = cell
                changes = {**NETWORKS[network], "actnorm": actnorm, "permutation": permutation}
                running[pool.submit(trial, changes, seed, seconds, dataset)] = row
        for future in as_completed(running):
            with table.open("a", newline="") as file:
                csv.writer(file).writerow([*running[future], *future.result()])


def compare(trials: pd.DataFrame) -> pd.DataFrame:
    """Return a row for each data set, time, network, ActNorm and other permutation, with its difference from 1x1."""
    rows = pd.DataFrame(_differences(trials.assign(state="finished")))
    rows["p_holm"] = rows.groupby(["dataset", "seconds"])["p"].transform(lambda p: holm(p.to_numpy()))
    return rows


def _differences(trials: pd.DataFrame) -> Iterator[dict[str, Any]]:
    for cell, group in trials.groupby(["dataset", "seconds", "network", "actnorm"], sort=False):
        means = group.groupby("permutation")["test_bits_per_dim"].mean()
        for row in paired_differences(group, ["permutation"]).to_dict("records"):
            if "1x1" in (row["a"], row["b"]):
                other, sign = (row["b"], 1) if row["a"] == "1x1" else (row["a"], -1)
                low, high = sorted((sign * row["low"], sign * row["high"]))
                yield {
                    **dict(zip(["dataset", "seconds", "network", "actnorm"], cell, strict=True)),
                    "images": group["images"].mean(),
                    "1x1": means["1x1"],
                    "other": other,
                    "1x1 - other": sign * row["difference"],
                    "low": low,
                    "high": high,
                    "p": row["p"],
                    "seeds": row["seeds"],
                }


def draw(compared: pd.DataFrame, path: Path) -> None:
    """Draw a panel per other permutation: the difference and its interval against the bits/dim with 1x1."""
    figure, panels = plt.subplots(1, 2, figsize=(10, 4), sharey=True, layout="constrained")
    for panel, (other, rows) in zip(panels, compared.groupby("other"), strict=True):
        for (dataset, actnorm), group in rows.groupby(["dataset", "actnorm"], sort=False):
            panel.errorbar(
                group["1x1"],
                group["1x1 - other"],
                yerr=[group["1x1 - other"] - group["low"], group["high"] - group["1x1 - other"]],
                fmt="o" if actnorm == "on" else "s",
                capsize=3,
                label=f"{Path(str(dataset).rpartition(':')[2]).name}, ActNorm {actnorm}",
            )
        panel.axhline(0, color="grey", linewidth=0.8)
        panel.set(title=f"1x1 against {other}", xlabel="test bits/dim with 1x1")
    panels[0].set_ylabel("bits/dim of 1x1 minus the other")
    panels[0].legend()
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
