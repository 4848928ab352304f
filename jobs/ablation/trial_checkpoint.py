"""Checkpoints of an ablation's trials, and how those are found that Tune lost sight of.

Tune deletes a trial's last checkpoint before it saves that there is a newer one. If it is killed in between, or while
it deletes, what it remembers is a folder that is gone, or half gone, and the newer one lies beside it.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from posixpath import dirname, relpath

from pyarrow.fs import FileSelector, FileSystem, LocalFileSystem, copy_files
from ray.tune import Checkpoint

from jobs.training.worker import Metrics

__all__ = ["TrialFacts", "last_whole", "put_back", "read_facts", "write_facts"]

FILE = "metrics.json"


@dataclass(frozen=True)
class TrialFacts:
    """The trial's label, the metrics of its last checkpoint and those of its best one so far."""

    trial: str
    last: Metrics
    best: Metrics


def write_facts(folder: str | Path, facts: TrialFacts) -> None:
    """Completes a checkpoint by facts, and by how large each of its files is."""
    sizes = {str(path.relative_to(folder)): path.stat().st_size for path in Path(folder).rglob("*") if path.is_file()}
    Path(folder, FILE).write_text(json.dumps({**asdict(facts), "sizes": sizes}))


def read_facts(folder: str | Path) -> TrialFacts:
    """What `write_facts` wrote; a checkpoint of an older glowctl does not say the label."""
    facts = json.loads(Path(folder, FILE).read_text())
    return TrialFacts(facts.get("trial", ""), facts["last"], facts["best"])


def put_back(checkpoint: Checkpoint) -> None:
    """If this is not whole, fills its folder from the next one of its trial that is; if none is, does nothing."""
    files, path = checkpoint.filesystem, checkpoint.path
    assert files is not None  # of a checkpoint that is kept somewhere
    if _is_whole(files, path):
        return
    beside = files.get_file_info(FileSelector(dirname(path), allow_not_found=True))
    for other in sorted(info.path for info in beside if info.path > path):
        if _is_whole(files, other):
            # Not in threads, in which pyarrow's uploads to S3 can hang.
            copy_files(other, path, source_filesystem=files, destination_filesystem=files, use_threads=False)
            return


def last_whole(experiment: Path) -> dict[str, Checkpoint]:
    """The last whole checkpoint of every trial, by its label, in Tune's folder of an experiment."""
    files = LocalFileSystem()
    whole = [folder for folder in sorted(experiment.glob("*/checkpoint_*")) if _is_whole(files, str(folder))]
    return {read_facts(folder).trial: Checkpoint(str(folder)) for folder in whole}


def _is_whole(files: FileSystem, folder: str) -> bool:
    try:
        with files.open_input_stream(f"{folder}/{FILE}") as stream:
            sizes = json.loads(stream.read())["sizes"]
    except (OSError, ValueError, KeyError):  # it is not there, was cut short, or is of an older glowctl
        return False
    found = files.get_file_info(FileSelector(folder, recursive=True))
    return sizes.items() <= {relpath(info.path, folder): info.size for info in found}.items()
