"""The results of the JSON file as text for a terminal; nothing is measured here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

__all__ = ["bar_text", "machine_text", "row_lines", "table", "value_text", "verdict"]


def table(results: Mapping[str, Any]) -> str:
    """Return all rows, and the number of bars that were passed."""
    lines = [machine_text(results["machine"])]
    for name, row in results["rows"].items():
        lines += ["", *row_lines(name, row)]
    return "\n".join([*lines, "", summary(results["rows"])])


def row_lines(name: str, row: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lines of a row: its title, its figures with their bars, and its remark."""
    yield f"{row['title']}  [{name}, {row['seconds']:.0f} s]"
    if "error" in row:
        yield f"  failed: {row['error']}"
    width = max((len(figure["what"]) for figure in row["figures"]), default=0)
    for figure in row["figures"]:
        told = f"  {figure['what']:<{width}}  {value_text(figure['value'], figure['unit']):>16}"
        yield f"{told}  {bar_text(figure):<18} {verdict(figure)}".rstrip()
    if row["remark"]:
        yield f"  {row['remark']}"


def summary(rows: Mapping[str, Any]) -> str:
    """Return how many bars were passed and which failed."""
    verdicts = [verdict(figure) for row in rows.values() for figure in row["figures"]]
    failed = [
        f"{name}: {figure['what']}"
        for name, row in rows.items()
        for figure in row["figures"]
        if verdict(figure) == "fail"
    ]
    told = f"{verdicts.count('pass')} bars passed, {len(failed)} failed, {verdicts.count('not measured')} not measured"
    return "\n  ".join([told, *failed])


def machine_text(machine: Mapping[str, Any]) -> str:
    """Return a line on the machine, the versions and the date."""
    bf16 = "bf16 in hardware" if machine["bf16"] else "no bf16 in hardware, so only float32 is measured"
    return (
        f"{machine['cpu']}, {machine['cores']} cores, {machine['threads']} threads, {bf16}, {machine['memory_gb']} GB; "
        f"Python {machine['python']}, torch {machine['torch']}, normflows {machine['normflows']}; {machine['date']}, "
        f"load average {machine['load']}"
        f"{', quick' if machine['quick'] else ''}"
    )


def value_text(value: float | None, unit: str) -> str:
    """Return a value with its unit, rounded to significant digits; a dash if it was not measured.

    Example:
        >>> value_text(1234.4, "images/s"), value_text(1.5, "x"), value_text(None, "s")
        ('1,234 images/s', '1.50x', '-')
    """
    if value is None:
        return "-"
    if unit == "x":
        return f"{value:,.0f}x" if value >= 100 else f"{value:.2f}x"
    if unit in ("%", "MB"):
        return f"{value:,.0f} {unit}" if abs(value) >= 1000 else f"{value:.1f} {unit}"
    if unit == "s":
        return f"{value:.3f} s" if value < 1 else f"{value:.2f} s"
    if unit == "bits/dim":
        return f"{value:.5f} {unit}"
    if unit:
        return f"{value:,.0f} {unit}"
    return f"{value:.2f}" if 0.01 < abs(value) < 100 else f"{value:.1e}"


def bar_text(figure: Mapping[str, Any]) -> str:
    """Return the bar of a figure, such as "at least 2x"; empty if it has none."""
    if "bar" not in figure:
        return ""
    limit, unit = figure["bar"], figure["unit"]
    number = f"{limit:g}x" if unit == "x" else f"{limit:g} {unit}".rstrip()
    return f"at {figure['at']} {number}"


def verdict(figure: Mapping[str, Any]) -> str:
    """Return whether a figure passed its bar; empty if it has none."""
    if "bar" not in figure:
        return ""
    return {True: "pass", False: "fail", None: "not measured"}[figure["passed"]]
