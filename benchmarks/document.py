"""The tables in docs/performance.md, written from the JSON file by `python -m benchmarks.document`.

A table is between `<!-- bench NAME -->` and `<!-- end -->`. NAME is the name of a row, or `bars` for all figures that
have a bar, or `machine` for a line on the machine. The rest of the document is not changed.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks.table import bar_text, machine_text, value_text, verdict

__all__ = ["filled", "main"]

PLACE = re.compile(r"(<!-- bench ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def filled(text: str, results: Mapping[str, Any]) -> str:
    """Return the document with new tables.

    Raises:
        KeyError: if the results lack a row that the document names.
    """
    return PLACE.sub(lambda place: f"{place[1]}\n{_block(place[2], results)}\n\n{place[3]}", text)


def _block(name: str, results: Mapping[str, Any]) -> str:
    if name == "machine":
        return machine_text(results["machine"])
    if name == "bars":
        return "\n".join(_bars(results["rows"]))
    return "\n".join(_row(results["rows"][name]))


def _bars(rows: Mapping[str, Any]) -> Iterator[str]:
    yield "| row | figure | measured | bar | result |"
    yield "| --- | --- | --- | --- | --- |"
    for row in rows.values():
        title = row["title"]
        for figure in row["figures"]:
            if "bar" in figure:
                told = value_text(figure["value"], figure["unit"])
                yield f"| {title} | {figure['what']} | {told} | {bar_text(figure)} | {verdict(figure)} |"
                title = ""


def _row(row: Mapping[str, Any]) -> Iterator[str]:
    yield "| figure | measured |"
    yield "| --- | --- |"
    for figure in row["figures"]:
        yield f"| {figure['what']} | {value_text(figure['value'], figure['unit'])} |"
    if row["remark"]:
        yield ""
        yield row["remark"]


def main() -> None:
    """Write the tables into the document."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=Path("docs/performance.json"))
    parser.add_argument("--document", type=Path, default=Path("docs/performance.md"))
    asked = parser.parse_args()
    asked.document.write_text(filled(asked.document.read_text(), json.loads(asked.results.read_text())))


if __name__ == "__main__":
    main()
