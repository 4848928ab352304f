"""Checkpoints of an ablation's trials, and how to find those that Ray Tune has lost.

When a trial has a newer checkpoint, Tune first deletes the older one, and then saves the path of the newer one. If Tune
is killed while it deletes, or between the two steps, the path that it has saved is that of a folder that is missing or
incomplete. The newer checkpoint is in a folder next to it.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from posixpath import dirname, relpath

from pyarrow.fs import FileSelector, FileSystem, LocalFileSystem, copy_files
from ray.tune import Checkpoint

from jobs.training.progress import Metrics

__all__ = ["TrialFacts", "last_whole", "put_back", "read_facts", "write_facts"]

FILE = "metrics.json"
"""Name of the file in a checkpoint with its `TrialFacts` and the sizes of its other files."""


@dataclass(frozen=True)
class TrialFacts:
    """What a checkpoint records about its trial.

    Attributes:
        trial: label of the trial; empty in a checkpoint of an older glowctl.
        last: metrics of this checkpoint.
        best: metrics of the best checkpoint so far.
    """

    trial: str
    last: Metrics
    best: Metrics


def write_facts(folder: str | Path, facts: TrialFacts) -> None:
    """Write the facts of a checkpoint, and the size of each of its files, as the last file of its folder."""
    sizes = {str(path.relative_to(folder)): path.stat().st_size for path in Path(folder).rglob("*") if path.is_file()}
    Path(folder, FILE).write_text(json.dumps({**asdict(facts), "sizes": sizes}))


def read_facts(folder: str | Path) -> TrialFacts:
    """Read the facts that `write_facts` wrote; the label is empty in a checkpoint of an older glowctl."""
    facts = json.loads(Path(folder, FILE).read_text())
    return TrialFacts(facts.get("trial", ""), facts["last"], facts["best"])


def put_back(checkpoint: Checkpoint) -> None:
    """Replace a missing or incomplete checkpoint by the next newer complete one of its trial, if there is one.

    Args:
        checkpoint: the checkpoint that Tune has recorded.
    """
    files, path = checkpoint.filesystem, checkpoint.path
    assert files is not None  # every checkpoint that Tune keeps has a file system
    if _is_whole(files, path):
        return
    beside = files.get_file_info(FileSelector(dirname(path), allow_not_found=True))
    for other in sorted(info.path for info in beside if info.path > path):
        if _is_whole(files, other):
            # Without threads, because in them pyarrow's uploads to S3 can hang.
            copy_files(other, path, source_filesystem=files, destination_filesystem=files, use_threads=False)
            return


def last_whole(experiment: Path) -> dict[str, Checkpoint]:
    """Return the last complete checkpoint of every trial, by the label of the trial.

    Args:
        experiment: Tune's folder of the experiment.
    """
    files = LocalFileSystem()
    whole = [folder for folder in sorted(experiment.glob("*/checkpoint_*")) if _is_whole(files, str(folder))]
    return {read_facts(folder).trial: Checkpoint(str(folder)) for folder in whole}


def _is_whole(files: FileSystem, folder: str) -> bool:
    try:
        with files.open_input_stream(f"{folder}/{FILE}") as stream:
            sizes = json.loads(stream.read())["sizes"]
    except (OSError, ValueError, KeyError):  # missing, cut short, or written by an older glowctl
        return False
    found = files.get_file_info(FileSelector(folder, recursive=True))
    return sizes.items() <= {relpath(info.path, folder): info.size for info in found}.items()
