"""What Tune saved of an experiment, and whether it can be read."""

from __future__ import annotations

import json
import logging
import pickle
import re

from pyarrow.fs import FileSelector, FileSystem

from jobs.outputs import open_storage

__all__ = ["damaged_file", "has_begun"]

log = logging.getLogger(__name__)


TRIALS = "experiment_state"
"""What the name of the file begins with that says which trials there are, in JSON. All others are pickles."""

SEARCHES = ({"basic-variant-state"}, {"search_gen_state", "searcher-state"})
"""What else is there once Tune has saved an experiment: of trials that are known beforehand, or proposed one by one."""


def has_begun(folder: str) -> bool:
    """Whether Tune has saved which trials there are, and are to come."""
    files, path = open_storage(folder)
    saved = _newest(files, path).keys()
    return {TRIALS, "tuner.pkl"} <= saved and any(search <= saved for search in SEARCHES)


def damaged_file(folder: str) -> str | None:
    """One of the files that Tune reads again, if it was killed while it wrote it: it would begin without it, or with
    other trials."""
    files, path = open_storage(folder)
    broken = (file for kind, file in _newest(files, path).items() if not _is_readable(files, file, kind == TRIALS))
    return next(broken, None)


def _newest(files: FileSystem, path: str) -> dict[str, str]:
    """Paths by what a name begins with: each time that an experiment is restored it writes to files of another date.
    What begins with a dot was on its way to such a name, and nobody reads it."""
    infos = files.get_file_info(FileSelector(path, allow_not_found=True))
    saved = sorted(info.path for info in infos if re.search(r"^[^.].*\.(json|pkl)$", info.base_name))
    return {re.split(r"-\d{4}-", file.rpartition("/")[2])[0]: file for file in saved}


def _is_readable(files: FileSystem, file: str, is_json: bool) -> bool:
    with files.open_input_stream(file) as stream:
        content = stream.read()
    try:
        json.loads(content) if is_json else pickle.loads(content)
    except Exception as error:  # a pickle that is cut short raises whatever it came to
        log.debug("%s is not whole: %s", file, error)
        return False
    return True
