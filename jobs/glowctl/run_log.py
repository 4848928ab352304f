"""The log of a run: what the screen shows, warnings, and the traceback of its end, in the folder of the run.

The log is text, with a time before each entry. Its newest lines are in ``log.txt``. When this file is full, it becomes
``log.first.txt``, and later ``log.earlier.txt``, so that the first lines and the newest ones are kept (`LOG_FILES`).
MLflow gets a copy with each heartbeat of the run, and at its end. A bucket, to which no line can be appended, gets its
copy at the same times.
"""

from __future__ import annotations

import logging
import socket
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib.metadata import version
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import TYPE_CHECKING

from glowctl.display.displays import PlainLines
from glowctl.errors import UserError, explained
from glowctl.outputs import is_remote, open_storage
from glowctl.system.verbosity import separate_loggers, unheeded
from glowctl.tracking import tag_names
from glowctl.tracking.liveness import LOG_FILES
from glowctl.tracking.uris import redacted, secrets_here

if TYPE_CHECKING:
    from glowctl.display.events import Event, Show
    from glowctl.tracking.record import Record

log = logging.getLogger(__name__)

MOST_BYTES = 10_000_000
"""Largest size of the files of a log together."""

SHOWN = logging.getLogger("glowctl.shown")
"""Receives what the screen shows, for the log alone."""

WORKERS = logging.getLogger("glowctl.workers")
"""Receives warnings and tracebacks of workers, for the log alone."""

for _logger in (SHOWN, WORKERS):
    _logger.setLevel(logging.INFO)
    _logger.propagate = False

NOT_ON_SCREEN = ("glow", "glowctl")
"""The loggers whose entries the screen does not show."""


class LogFile(RotatingFileHandler):
    """Writes entries into the files of a log, without passwords. What the disk does not take is lost.

    Args:
        folder: the folder of the files, to which entries are appended if they exist.
    """

    def __init__(self, folder: Path) -> None:
        self._first, self._earlier, newest = (folder / name for name in LOG_FILES)
        self._secrets = secrets_here()
        super().__init__(newest, maxBytes=MOST_BYTES // len(LOG_FILES), backupCount=1, encoding="utf-8", delay=True)
        self.setFormatter(logging.Formatter("%(asctime)s %(message)s"))

    def rotation_filename(self, default_name: str) -> str:
        """Return the name that a full file gets, in place of the name that Python would give it."""
        return str(self._earlier if self._first.exists() else self._first)

    def format(self, record: logging.LogRecord) -> str:
        """Return an entry without passwords."""
        return redacted(super().format(record), self._secrets)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  # the name is Python's
        """Do nothing: the disk may be full, which ends the run by its checkpoints, with a clear sentence."""


class RunLog(PlainLines):
    """The log of a run, as a display of plain lines.

    Args:
        folder: the folder of the log's files.
        record: the run.
        place: the folder of the run, or its URI in a bucket, where the log is copied to.
    """

    def __init__(self, folder: Path, record: Record, place: str) -> None:
        super().__init__()
        self._folder, self._record, self._place = folder, record.impatient(), place
        self._copied: dict[str, float] = {}

    def write(self, text: str) -> None:
        """Write an entry."""
        SHOWN.info(text)

    def copy(self) -> None:
        """Copy the files that have changed to MLflow and to the bucket. What fails now is copied the next time."""
        for name in LOG_FILES:
            path = self._folder / name
            with unheeded(log, f"{name} was not copied"):
                changed = path.stat().st_mtime if path.exists() else None
                if changed is not None and self._copied.get(name) != changed:
                    self._record.file(path)
                    if is_remote(self._place):
                        files, place = open_storage(self._place)
                        files.create_dir(place, recursive=True)
                        with files.open_output_stream(f"{place}/{name}") as stream:
                            stream.write(path.read_bytes())
                    self._copied[name] = changed


@contextmanager
def logged(place: str, record: Record, show: Show) -> Iterator[tuple[RunLog, Show]]:
    """Write the log of a run during the `with` block.

    Args:
        place: the folder of the run, which must exist, or its URI in a bucket.
        record: the run.
        show: shows an event to the user.

    Yields:
        The log, and the function that shows an event to the user and writes it into the log.
    """
    with ExitStack() as stack:
        folder = Path(place)
        if is_remote(place):
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            _fetch(place, folder)
        run_log = RunLog(folder, record, place)
        stack.callback(run_log.copy)
        stack.enter_context(_written(LogFile(folder)))
        SHOWN.info(f"glowctl {version('glowctl')} on {socket.gethostname()}: {record.name!r}, run {record.run_id}")
        record.tag(tag_names.PLACE, place)
        write = stack.enter_context(run_log)

        def show_and_write(event: Event) -> None:
            write(event)
            show(event)

        try:
            yield run_log, show_and_write
        except KeyboardInterrupt:
            SHOWN.info("stopped by a signal")
            raise
        except BaseException as error:
            SHOWN.error("glowctl: %s", explained(error) if isinstance(error, UserError) else error, exc_info=error)
            raise


def _fetch(place: str, folder: Path) -> None:
    """Copy the log of an earlier command from a bucket, so that this command appends to it."""
    for name in LOG_FILES:
        with unheeded(log, f"there is no {name} in {place}"):
            files, path = open_storage(place)
            with files.open_input_stream(f"{path}/{name}") as stream:
                (folder / name).write_bytes(stream.read())


@contextmanager
def _written(file: LogFile) -> Iterator[None]:
    """Write into a file what the screen shows, and the warnings of all libraries, which still appear on the screen."""
    root = logging.getLogger()
    loggers = [SHOWN, WORKERS, *separate_loggers()]
    screen = logging.StreamHandler()  # Python's own, which is used only while the root logger has no handler
    screen.setLevel(logging.WARNING)
    screen.addFilter(lambda entry: entry.name.partition(".")[0] not in NOT_ON_SCREEN)
    on_root = [] if root.handlers else [screen]
    for logger in loggers:
        logger.addHandler(file)
    for handler in on_root:
        root.addHandler(handler)
    logging.captureWarnings(True)
    try:
        yield
    finally:
        logging.captureWarnings(False)
        for logger in loggers:
            logger.removeHandler(file)
        root.removeHandler(screen)
        file.close()
