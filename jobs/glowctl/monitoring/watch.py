"""The watch job: an alarm when a stream of images no longer belongs to what a model was trained on.

The statistics are in `glow.ood.monitor`. Images are scored in this process, as `glowctl check` does. The folder of the
run has all state: the scores of the reference, the journal of the images (`glowctl.monitoring.journal`), and the alarms
that have been told.
"""

from __future__ import annotations

import json
import logging
import math
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import torch

from glow.datasets.base import DatasetNotFound
from glow.datasets.buckets import BucketFolder, is_uri
from glow.datasets.incoming import UNREADABLE, Incoming, Piece, file_at, pieces
from glow.figures.pictures import image_rows
from glow.ood import Alarm, ImageCheck, Monitor
from glow.ood.monitor import RECENT
from glowctl.display import events
from glowctl.display.events import Noted, Show
from glowctl.errors import JobError, SpecError
from glowctl.evaluation.check import Scorer, opened, scored, scorer_of
from glowctl.evaluation.run import Evaluation, EvaluationRun, evaluation_run, prepare_evaluation
from glowctl.monitoring.arrivals import (
    BATCH,
    BUCKET_POLL_S,
    Arrivals,
    Arrived,
    Seen,
    from_folder,
    from_lines,
    identity,
)
from glowctl.monitoring.exposition import expose
from glowctl.monitoring.journal import ACKNOWLEDGED, Journal, Line
from glowctl.outputs import claimed, is_remote
from glowctl.specs.base import refuse, validated
from glowctl.specs.monitoring import WatchSpec, read_guarantee
from glowctl.system.process_setup import set_up_computing
from glowctl.system.verbosity import unheeded
from glowctl.tracking import tag_names
from glowctl.tracking.on_end import COMMAND_TIMEOUT_S, tell
from glowctl.tracking.record import Record
from glowctl.tracking.runs import find_run
from glowctl.tracking.uris import tracking_uri

log = logging.getLogger("glowctl.watch")

REFERENCE_FILE, ALARMS_FILE = "reference.npy", "alarms.jsonl"

REPORT_S = 5.0
"""Least number of seconds between two reports of the progress to MLflow, Prometheus and the screen."""

COOL_DOWN_S = 600.0
"""Seconds after an alarm in which further ones are counted, but not told."""

RECENT_P_VALUES = 1000
"""Number of the latest images whose p-values have their quantiles in ``--prometheus``."""

REPLAYED = 10_000
"""Number of lines of the journal that are replayed at a time."""

CHANGEABLE = {"on_alarm", "exit_on_alarm", "prometheus", "on_end", "tracking_uri", "experiment"}
"""Settings that may be given again with ``--resume``."""


@dataclass(frozen=True)
class WatchWork:
    """A watch whose settings have been checked.

    Attributes:
        evaluation: the settings and the model.
        scorer: what scores images.
        reference: images that belong, in place of those that were held out of the training; empty for the latter.
        record: the run to continue; None for a new one.
        acknowledges: whether the evidence begins anew if there was an alarm.
    """

    evaluation: Evaluation[WatchSpec]
    scorer: Scorer
    reference: Sequence[Incoming]
    record: Record | None = None
    acknowledges: bool = False

    @property
    def spec(self) -> WatchSpec:
        """The settings."""
        return self.evaluation.spec

    def judge(self, show: Show) -> ImageCheck:
        """Return the detectors, with the scores of the reference as those of held-out images.

        The recommended detector does not depend on the reference, so that a resumed watch has the same.
        """
        calibration = self.scorer.calibration
        detector = self.spec.detector or calibration.recommended
        if detector not in calibration.detectors:
            known = ", ".join(calibration.detectors)
            raise SpecError(f"there is no detector {detector!r}", remedy=f"use one of {known}", code="check-impossible")
        if self.reference:
            held_out = scored(self.scorer, self.reference, show, str(self.spec.reference)).table
            calibration = replace(calibration, held_out=held_out)
        return ImageCheck(calibration, detector)

    def monitor(self, reference_nD: np.ndarray) -> Monitor:
        """Return a monitor with the settings of the watch and no evidence."""
        spec = self.spec
        every = read_guarantee(spec.guarantee)
        return Monitor(reference_nD, reference=spec.ranks, alpha=spec.alpha, every=every, seed=spec.seed)


def scores_of(check: ImageCheck, table: Any) -> np.ndarray:
    """Return the scores (N, D) of the detectors of a check, from a score table."""
    return np.stack([detector.image_scores(table) for detector in check.detectors.values()], 1)


def prepare(spec: WatchSpec, record: Record | None = None) -> WatchWork:
    """Find the model and the reference.

    Args:
        spec: the settings.
        record: the run to continue; None for a new one.

    Raises:
        SpecError: if there is no such folder, or images cannot be brought into the model's shape.
        DatasetNotFound, DatasetCorrupt: if a data set or a bucket cannot be opened.
        JobError: if the model has no scores to compare images with.
        TrackingError, CheckpointError: if the store does not answer, or there is no such model.
    """
    if is_remote(spec.output):
        raise SpecError(
            f"--output {spec.output} is a bucket, but a watch keeps its state in a folder",
            remedy="give --output a folder",
            code="output-not-folder",
        )
    source = spec.source.removeprefix("folder:")
    if is_uri(source):
        BucketFolder(source).files()
    elif source != "-":
        folder = Path(source).expanduser().absolute()
        if not folder.is_dir():
            raise SpecError(
                f"there is no folder {folder} to watch",
                remedy="name the folder that images arrive in, or - for paths on standard input",
                code="source-not-folder",
            )
        source = str(folder)
    spec = spec.model_copy(update={"source": source})
    evaluation = prepare_evaluation(spec)
    known = record is not None and _folder(evaluation, record).joinpath(REFERENCE_FILE).exists()
    return _work(evaluation, None if known else spec.reference, record)


def prepare_rehearsal(spec: WatchSpec) -> WatchWork:
    """Find the model and the reference for a rehearsal, which records nothing.

    Raises:
        SpecError, DatasetNotFound, DatasetCorrupt, JobError, TrackingError, CheckpointError: as `prepare`.
    """
    evaluation = prepare_evaluation(spec, records=False)
    return _work(evaluation, spec.reference, None)


def _work(evaluation: Evaluation[WatchSpec], reference: str | None, record: Record | None) -> WatchWork:
    scorer = scorer_of(evaluation)
    parts = [] if reference is None else opened(evaluation, [reference])
    return WatchWork(evaluation, scorer, parts, record)


def prepare_resume(name: str, changes: Mapping[str, Any], acknowledges: bool = False) -> WatchWork:
    """Find a watch to continue.

    Args:
        name: name or id of its run.
        changes: settings that were given again.
        acknowledges: whether the evidence begins anew if there was an alarm.

    Raises:
        SpecError: if a setting was given that cannot change.
        JobError: if the run is no watch, or its model has changed.
        TrackingError: if the store does not answer, or has no such run.
    """
    refuse(changes.keys() - CHANGEABLE, "a resumed watch")
    uri = tracking_uri(changes.get("tracking_uri"))
    run = find_run(uri, changes.get("experiment", "glow"), name)
    tags = run.data.tags
    if tags.get(tag_names.JOB) != "watch":
        raise JobError(
            f"run {run.info.run_name!r} ({run.info.run_id}) is not a watch",
            remedy="name a run that glowctl runs --job watch lists",
            code="run-of-another-job",
        )
    spec = validated(WatchSpec, {**json.loads(tags[tag_names.SPEC]), **changes, "tracking_uri": uri})
    work = prepare(spec, Record.existing(uri, run))
    if work.evaluation.model.digest != tags.get(tag_names.MODEL_DIGEST):
        raise JobError(
            f"{spec.model} is another model than that of run {run.info.run_name!r} ({run.info.run_id})",
            remedy="start a new watch",
            code="model-changed",
        )
    return replace(work, acknowledges=acknowledges)


def _folder(evaluation: Evaluation[WatchSpec], record: Record) -> Path:
    return Path(evaluation.spec.output, record.run_id)


def run(work: WatchWork, lines: Iterable[str], show: Show) -> bool:
    """Watch until nothing more can arrive, or until an alarm with ``--exit-on-alarm``.

    Args:
        work: what `prepare` returned.
        lines: standard input, which has paths if the source is "-".
        show: receives the events.

    Returns:
        Whether an alarm ended it.

    Raises:
        JobError: if the watch is being continued elsewhere, or a file cannot be written.
        TrackingError: if the store does not answer at the start or at the end.
    """

    def lock(record: Record | None) -> AbstractContextManager[None]:
        if record is None:
            return nullcontext()
        return claimed(str(_folder(work.evaluation, record)), record.run_id, "watch")

    # A run that is continued elsewhere must be refused before its status changes; a new run has no folder before.
    with (
        lock(work.record),
        evaluation_run(work.evaluation, "watch", show, work.record) as recorded,
        lock(None if work.record else recorded.record),
    ):
        recorded.show(Noted(f"to continue this watch later: glowctl watch --resume {recorded.record.run_id}"))
        watch = Watch(work, recorded)
        arrivals = Arrivals(_looks(work.spec.source, lines, watch.seen, recorded.show))
        ends = work.spec.exit_on_alarm
        for batch in () if ends and watch.alarmed else arrivals:
            watch.judge(batch, arrivals.again)
            if ends and watch.alarmed:
                break
        watch.end()
    return ends and watch.alarmed


def _looks(source: str, lines: Iterable[str], seen: Seen, show: Show) -> Iterator[list[Arrived]]:
    if source == "-":
        return from_lines(lines, seen)
    folder = BucketFolder(source) if is_uri(source) else Path(source)
    return from_folder(folder, seen, lambda said: show(Noted(said)))


class Watch:
    """The evidence, the journal and the alarms of a watch.

    Args:
        work: the settings and the model.
        recorded: its run.

    Attributes:
        seen: the files that have been judged.
    """

    def __init__(self, work: WatchWork, recorded: EvaluationRun) -> None:
        self._work, self._recorded, self._folder = work, recorded, recorded.folder
        set_up_computing(joblib.cpu_count())
        self._check = work.judge(recorded.show)
        self._known = self._reference()
        self._monitor = work.monitor(self._known)
        detector = list(self._check.detectors.values())[-1]
        self._test = detector.fit_to(self._known[:, -1], 1, 0.5, interval=False)  # for p-values of single images
        self._evidence = 0.0
        self._files: deque[str] = deque(maxlen=RECENT + 1)
        self._p_values: deque[float] = deque(maxlen=RECENT_P_VALUES)
        self._unreadable = self._arrived = 0
        self._waiting: set[str] = set()
        self._next_report, self._told = 0.0, -math.inf
        self._hooks: list[threading.Thread] = []
        self._journal = Journal(self._folder)
        self.seen = Seen()
        self._replay()
        if work.acknowledges:
            self._acknowledge()

    @property
    def alarmed(self) -> bool:
        """Whether there was an alarm that has not been acknowledged."""
        return self._monitor.alarmed

    def judge(self, batch: Sequence[Arrived], again: Callable[[Arrived], bool]) -> None:
        """Score a batch, write it into the journal, and bet on it.

        Args:
            batch: the files.
            again: hands a file out again later, unless it returns False.
        """
        chosen = [file for file in batch if self._is_judged(file)]
        scores, problems = self._scored(chosen)
        lines = []
        for file in batch:
            if file.file in problems and again(file):
                self._waiting.add(file.file)
                continue
            self._waiting.discard(file.file)
            lines.append(Line(file.file, file.modified, scores.get(file.file), problems.get(file.file)))
        if lines:
            self._journal.append(lines)
            self._bet(lines)
        if time.monotonic() > self._next_report:
            self._report()

    def end(self) -> None:
        """Record the result."""
        self._report()
        for thread in self._hooks:
            thread.join(COMMAND_TIMEOUT_S + 5)
        figures = asdict(self._progress())
        self._recorded.record.metrics(self._metrics(), step=self._monitor.images)
        event = events.Watched(**self._recorded.known_as, **figures, place=self._recorded.place)
        alarms = [f"alarm after image {alarm.image:,}" for alarm in self._monitor.alarms[:10]]
        self._recorded.finish(event, ", ".join(alarms) or f"no alarm in {self._monitor.images:,} images")

    def _path(self, name: str) -> Path:
        return self._folder / name

    def _reference(self) -> np.ndarray:
        """Return the scores of the reference: those that the watch began with."""
        path = self._path(REFERENCE_FILE)
        if not path.exists():
            draft = path.with_suffix(".tmp.npy")
            np.save(draft, scores_of(self._check, self._check.calibration.held_out))
            draft.rename(path)
        found: np.ndarray = np.load(path)
        return found

    def _replay(self) -> None:
        """Compute the evidence from the journal, and tell the first alarm if a killed watch has not told it."""
        alarms = self._path(ALARMS_FILE)
        known = alarms.read_text() if alarms.exists() else ""  # whose last line can be incomplete
        told = max(map(int, re.findall(r'"image": (\d+)', known)), default=0)
        self._tells = not told
        part: list[Line] = []
        for line in self._journal.lines():
            if line == ACKNOWLEDGED or len(part) == REPLAYED:
                self._bet(part)
                part = []
            if line == ACKNOWLEDGED:
                self._begin_anew()
                self._tells = told <= self._monitor.images
                continue
            self.seen.add(line.file if self._work.spec.source != "-" else identity(line.file, line.modified))
            self._arrived += 1
            part.append(line)
        self._bet(part)
        self._tells = True

    def _acknowledge(self) -> None:
        """Begin the evidence anew if there was an alarm, and write that down."""
        said = "there is no alarm to acknowledge: the evidence goes on"
        if self.alarmed:
            said = f"the alarm after image {self._monitor.alarms[-1].image:,} is acknowledged: the evidence begins anew"
            self._journal.append([ACKNOWLEDGED])
            self._begin_anew()
        self._recorded.show(Noted(said))

    def _begin_anew(self) -> None:
        self._monitor.acknowledge()
        self._evidence = 0.0

    def _is_judged(self, file: Arrived) -> bool:
        if file.file in self._waiting:
            return True
        self._arrived += 1
        return (self._arrived - 1) % self._work.spec.thin == 0

    def _scored(self, files: Sequence[Arrived]) -> tuple[dict[str, tuple[float, ...]], dict[str, str]]:
        """Return the scores of each file that could be read, and what is wrong with each of the others."""
        if not files:
            return {}, {}
        piece = self._read(self._incoming([file.file for file in files]))
        gone = [position for position in range(len(files)) if position not in set(piece.positions)]
        problems = {files[position].file: said for position, (_, said) in zip(gone, piece.unreadable, strict=True)}
        if not piece.positions:
            return {}, problems
        # Always as many images at once, because rounding depends on their number, and a resumed watch divides them
        # differently.
        number = len(piece.positions)
        images = torch.zeros(BATCH, *piece.images.shape[1:], dtype=torch.uint8)
        images[:number] = piece.images
        table = self._work.scorer(images, self._monitor.images)[:number]
        rows = map(tuple, scores_of(self._check, table).tolist())
        return {files[position].file: row for position, row in zip(piece.positions, rows, strict=True)}, problems

    def _incoming(self, files: Sequence[str]) -> Incoming:
        evaluation = self._work.evaluation
        options = "?" + evaluation.spec.source.partition("?")[2] if is_uri(evaluation.spec.source) else ""
        found = [file_at(file + options) for file in files]
        return Incoming.of_files(found, evaluation.model.config.image_shape, background=evaluation.backdrop)

    def _read(self, part: Incoming) -> Piece:
        """Read images, and wait while their bucket cannot be reached."""
        while True:
            try:
                (piece,) = pieces([part], size=len(part.names), threads=joblib.cpu_count() + 1)
                return piece
            except DatasetNotFound as error:
                self._recorded.show(Noted(f"{error.problem}: waiting until it returns"))
                time.sleep(BUCKET_POLL_S)

    def _bet(self, lines: Sequence[Line]) -> None:
        """Bet on images in their order, and tell new alarms."""
        judged = [line for line in lines if line.scores is not None]
        self._unreadable += sum(line.problem is not None for line in lines)
        if not judged:
            return
        first, known = self._monitor.images + 1, len(self._monitor.alarms)
        scores_BD = np.array([line.scores for line in judged])
        evidence = self._monitor.update(scores_BD)
        self._evidence = float(evidence[-1])
        self._p_values.extend(self._test.p_value(scores_BD[-RECENT_P_VALUES:, -1:]))
        for number, line in enumerate(judged, first):
            self._files.append(line.file)
            for index in range(known, len(self._monitor.alarms)):
                if self._monitor.alarms[index].image == number and self._tells and self._is_cool():
                    self._tell(self._monitor.alarms[index], float(evidence[number - first]), number)

    def _is_cool(self) -> bool:
        """Return whether the last alarm that was told is long ago; the next one is told at once."""
        now = time.monotonic()
        if now - self._told < COOL_DOWN_S:
            return False
        self._told = now
        return True

    def _file(self, image: int, newest: int) -> str | None:
        """Return the path of an image, where the newest of the known ones has the number `newest`."""
        position = len(self._files) - 1 - (newest - image)
        return self._files[position] if 0 <= position < len(self._files) else None

    def _tell(self, alarm: Alarm, evidence: float, newest: int) -> None:
        """Show an alarm, draw the images that moved the evidence, write it down, and call ``--on-alarm``."""
        moved = [path for image in alarm.moved if (path := self._file(image, newest)) is not None]
        picture = self._path(f"alarm-{alarm.image}.png")
        record = self._recorded.record
        event = events.Alarm(
            image=alarm.image,
            file=self._file(alarm.image, newest) or "",
            start=alarm.start,
            earliest=alarm.earliest,
            latest=alarm.latest,
            start_file=self._file(alarm.start, newest),
            detector=list(self._check.detectors)[alarm.detector],
            higher=alarm.higher,
            evidence=evidence,
            threshold=self._monitor.threshold,
            moved=moved,
            run=record.name,
            run_id=record.run_id,
            picture=str(picture),
        )
        with unheeded(log, "no picture of an alarm could be drawn"):
            self._draw(moved, f"The images of the alarm after image {alarm.image}", picture)
        self._recorded.show(event)
        with unheeded(log, "an alarm could not be recorded in MLflow"):
            record.impatient().file(picture)
            record.impatient().metrics(self._metrics(), step=alarm.image)
        if self._work.spec.on_alarm is not None:
            self._hooks.append(threading.Thread(target=self._call, args=(self._work.spec.on_alarm, event), daemon=True))
            self._hooks[-1].start()
        with self._path(ALARMS_FILE).open("a") as file:
            file.write(json.dumps(event.to_dict()) + "\n")

    def _call(self, hook: str, event: events.Alarm) -> None:
        try:
            tell(hook, {"job": "watch", "state": "alarm", **event.to_dict()})
        except Exception as error:
            self._recorded.show(Noted(f"--on-alarm {hook} did not take the alarm ({type(error).__name__}: {error})"))

    def _draw(self, files: Sequence[str], title: str, path: Path) -> None:
        part, images = self._incoming(files), []
        for position in range(len(files)):
            try:
                images.append(part.images.images(position, position + 1)[0].numpy())
            except UNREADABLE:  # the file has been moved since it was judged
                continue
        image_rows(np.array([images]), [""], title).savefig(path, dpi=120)

    def _progress(self) -> events.Watching:
        monitor = self._monitor
        return events.Watching(monitor.images, self._evidence, monitor.threshold, self._unreadable, len(monitor.alarms))

    def _metrics(self) -> dict[str, float]:
        progress = asdict(self._progress())
        return {name: float(value) for name, value in progress.items() if name != "images" and math.isfinite(value)}

    def _report(self) -> None:
        """Write the progress to MLflow, to ``--prometheus``, and to the screen."""
        started = time.monotonic()
        self._recorded.show(self._progress())
        if self._work.spec.prometheus is not None:
            expose(self._work.spec.prometheus, self._progress(), list(self._p_values))
        if self._monitor.images:
            with unheeded(log, "the evidence could not be recorded in MLflow"):
                self._recorded.record.impatient().metrics(self._metrics(), step=self._monitor.images)
        # A store that does not answer may take a tenth of the time, but not more.
        now = time.monotonic()
        self._next_report = now + max(REPORT_S, 9 * (now - started))
