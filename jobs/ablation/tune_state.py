"""The files in which Ray Tune saves an experiment: whether they are there, and whether they can be read."""

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
"""First part of the name of the JSON file with the list of trials. All other files are pickles."""

SEARCHES = ({"basic-variant-state"}, {"search_gen_state", "searcher-state"})
"""Other files of a saved experiment: with trials that are known beforehand, or with trials proposed one by one."""


def has_begun(folder: str) -> bool:
    """Return whether Tune has saved all the files from which it can restore the experiment.

    These are the list of trials, the settings of the experiment, and the state of the generator or searcher that makes
    new trials.

    Args:
        folder: folder of the experiment, or its URI in a bucket.
    """
    files, path = open_storage(folder)
    saved = _newest(files, path).keys()
    return {TRIALS, "tuner.pkl"} <= saved and any(search <= saved for search in SEARCHES)


def damaged_file(folder: str) -> str | None:
    """Return a file of the experiment that cannot be read; None if all files can be read.

    A file is damaged if Tune was killed while it wrote the file. Tune itself would ignore the damage: it would start
    without the contents of that file, or with other trials.

    Args:
        folder: folder of the experiment, or its URI in a bucket.
    """
    files, path = open_storage(folder)
    broken = (file for kind, file in _newest(files, path).items() if not _is_readable(files, file, kind == TRIALS))
    return next(broken, None)


def _newest(files: FileSystem, path: str) -> dict[str, str]:
    """Return the newest file of each kind, by the first part of its name.

    Each time that an experiment is restored, Tune writes to files with another date. A name with a leading dot is that
    of a file which was being written, and which Tune does not read.
    """
    infos = files.get_file_info(FileSelector(path, allow_not_found=True))
    saved = sorted(info.path for info in infos if re.search(r"^[^.].*\.(json|pkl)$", info.base_name))
    return {re.split(r"-\d{4}-", file.rpartition("/")[2])[0]: file for file in saved}


def _is_readable(files: FileSystem, file: str, is_json: bool) -> bool:
    with files.open_input_stream(file) as stream:
        content = stream.read()
    try:
        json.loads(content) if is_json else pickle.loads(content)
    except Exception as error:  # a pickle that is cut short can raise anything
        log.debug("%s is incomplete: %s", file, error)
        return False
    return True
