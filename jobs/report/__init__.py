"""A report of what MLflow has recorded: one HTML file with everything in it, and the same in Markdown.

Nothing heavy is imported until a report is made: every command knows the line that one is shown with.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.tracking import tag_names

if TYPE_CHECKING:
    from jobs.display.events import Reported
    from jobs.report.blocks import Report

__all__ = ["make"]

HTML, MARKDOWN = "report.html", "report.md"


def make(
    uri: str, experiment: str, runs: Sequence[str] | None, output: str | Path, show: Callable[[Reported], None]
) -> Report:
    """Puts a report together from MLflow alone, of an experiment or of the runs named (ids or names of ablations,
    trainings and evaluations, with those beneath them). It goes into the folder `output` and into a run of its own,
    and into that alone where `output` is a bucket.

    Raises:
        TrackingError: for a run or an experiment that there is not, an experiment without runs, or if the store does
            not answer.
        JobError: for an output folder that cannot be used.
    """
    from jobs.display.events import Reported
    from jobs.outputs import is_remote, usable_output
    from jobs.report.compose import compose
    from jobs.report.gather import gather
    from jobs.tracking import Record, open_command

    material = gather(uri, experiment, runs)
    place = usable_output(str(output))
    report = compose(material)
    params = {"experiment": experiment, "runs": ",".join(runs) if runs else "all", "sources": len(material.runs)}
    record = Record.start(uri, experiment, f"report {experiment}", {tag_names.JOB: "report"}, params)
    with record.running(system_metrics=False), tempfile.TemporaryDirectory() as scratch:
        _write(report, Path(scratch))
        record.describe(_description(report))
        record.folder(Path(scratch))
        if is_remote(place):
            place = record.artifact_uri
        else:
            _copy(Path(scratch), Path(place))
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
    """Both files, and the Markdown's pictures."""
    from jobs.report.render import IMAGES, html, markdown

    (folder / HTML).write_text(html(report), encoding="utf-8")
    (folder / MARKDOWN).write_text(markdown(report), encoding="utf-8")
    (folder / IMAGES).mkdir()
    for picture in report.pictures:
        (folder / IMAGES / picture.name).write_bytes(picture.data)


def _copy(source: Path, folder: Path) -> None:
    """Not by copytree, which would give the folder the rights of a temporary one: none for others."""
    for file in (path for path in source.rglob("*") if path.is_file()):
        place = folder / file.relative_to(source)
        place.parent.mkdir(exist_ok=True)
        shutil.copyfile(file, place)


def _description(report: Report) -> str:
    """Of the run in MLflow, in Markdown."""
    from jobs.report.render import escaped

    lines = [f"**Result:** `{HTML}`, and `{MARKDOWN}` with its pictures beside it", ""]
    lines += [f"- {escaped(sentence)}" for sentence in report.summary]
    if report.gaps:
        lines += ["", "What is missing:", "", *(f"- {escaped(str(gap))}" for gap in report.gaps)]
    return "\n".join(lines)
