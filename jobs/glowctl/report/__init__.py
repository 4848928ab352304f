"""The report: a summary of runs in MLflow as one self-contained HTML file, and the same in Markdown.

`make` is the entry point. It gathers runs (`gather`), composes sections of text, tables and pictures (`compose`, with
the sections of trainings in `compare` and those of evaluations in `evaluations`), and renders them (`document`).
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from glowctl.display.events import Reported
from glowctl.display.tables import escaped
from glowctl.outputs import is_remote, usable_output
from glowctl.report import compose, gather
from glowctl.report.document import IMAGES, Report, html, markdown
from glowctl.tracking import tag_names
from glowctl.tracking.record import Record
from glowctl.tracking.store import open_command

HTML, MARKDOWN = "report.html", "report.md"


def make(
    uri: str, experiment: str, runs: Sequence[str] | None, output: str | Path, show: Callable[[Reported], None]
) -> Report:
    """Write a report of an experiment, or of some runs, from nothing but what MLflow has.

    The report is written to a folder, and as artifacts to a new run of the experiment.

    Args:
        uri: the store.
        experiment: name of the experiment.
        runs: ids or names of ablations, trainings and evaluations, to which the runs nested under them are added. If
            None, `gather` chooses from all runs of the experiment.
        output: folder to write to; if it is a bucket, the report is stored only as artifacts of the new run.
        show: receives the event `Reported` after the report has been written.

    Returns:
        The report.

    Raises:
        TrackingError: if a run or the experiment does not exist, there are no runs, or the store does not answer.
        JobError: if the output folder cannot be used.
    """
    material = gather.gather(uri, experiment, runs)
    place = usable_output(str(output))
    report = compose.compose(material)
    params = {"experiment": experiment, "runs": ",".join(runs) if runs else "all", "sources": len(material.runs)}
    record = Record.start(uri, experiment, f"report {experiment}", {tag_names.JOB: "report"}, params)
    with record.running(system_metrics=False), tempfile.TemporaryDirectory() as scratch:
        _write(report, Path(scratch))
        record.describe(_description(report))
        record.folder(Path(scratch))
        if is_remote(place):
            place = record.artifact_uri
        else:
            _write(report, Path(place))
    show(
        Reported(
            html=f"{place}/{HTML}",
            markdown=f"{place}/{MARKDOWN}",
            run_id=record.run_id,
            missing=[str(gap) for gap in report.gaps],
            open_with=open_command(uri),
        )
    )
    return report


def _write(report: Report, folder: Path) -> None:
    """Write the HTML file, the Markdown file, and the pictures of the latter."""
    (folder / HTML).write_text(html(report), encoding="utf-8")
    (folder / MARKDOWN).write_text(markdown(report), encoding="utf-8")
    (folder / IMAGES).mkdir(exist_ok=True)
    for picture in report.pictures:
        (folder / IMAGES / picture.name).write_bytes(picture.data)


def _description(report: Report) -> str:
    """Return the description of the report's run in MLflow, in Markdown."""
    lines = [f"**Result:** `{HTML}`, and the same in Markdown, `{MARKDOWN}` with `{IMAGES}`", ""]
    lines += [f"- {escaped(sentence)}" for sentence in report.summary]
    if report.gaps:
        lines += ["", "Missing from the report:", "", *(f"- {escaped(str(gap))}" for gap in report.gaps)]
    return "\n".join(lines)
