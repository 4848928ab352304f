"""Runs as jobs leave them, with small files in place of models, for tests of pruning."""

import json
import time
from pathlib import Path
from typing import Any

from glowctl.outputs import KeptResult, KeptRun, folder_of_trial, remember
from glowctl.tracking import metric_names, tag_names
from glowctl.tracking.record import Record
from glowctl.tracking.store import client_of

NAME = "glow-digits"
DAY = 86400


class Recorded:
    """A store in a folder, and the outputs of its runs.

    Args:
        folder: an empty folder.
        uri: the store.
        output: the output folder or bucket; None for a folder next to the store.
    """

    def __init__(self, folder: Path, uri: str, output: str | None = None) -> None:
        self.folder, self.uri = folder, uri
        self.output = output or str(folder / "outputs")
        self.client = client_of(uri)
        self.model = folder / "model"
        from mlflow.models import Model

        self.model.mkdir(exist_ok=True)
        Model().save(str(self.model / "MLmodel"))
        (self.model / "weights").write_bytes(b"w" * 1000)

    def run(self, job: str, name: str, age_d: float = 40.0, status: str = "FINISHED", **tags: Any) -> str:
        """Record a run that ended some days ago, with a score table of 500 bytes."""
        tags = {tag_names.JOB: job, tag_names.SPEC: json.dumps({"output": self.output})} | {
            getattr(tag_names, tag): value for tag, value in tags.items()
        }
        record = Record.start(self.uri, "glow", name, tags, {})
        scores = self.folder / "scores.parquet"
        scores.write_bytes(b"s" * 500)
        record.file(scores, "scores")
        if job == "train":
            self._publish(record, name)
        if status != "RUNNING":
            self.client.set_terminated(record.run_id, status, end_time=int(1000 * (time.time() - age_d * DAY)))
        return record.run_id

    def _publish(self, record: Record, name: str) -> None:
        record.model(self.model, NAME, {tag_names.SCORE: "3.0"}, f"{name}: 3.000 bits/dim on the validation images")

    def train(self, name: str, **more: Any) -> str:
        """Record a training with its folder."""
        run_id = self.run("train", name, **more)
        place = f"{self.output}/{run_id}"
        remember(place, KeptRun(job="train", run_id=run_id, run_name=name, spec={}, images={}))
        self._checkpoint(f"{place}/checkpoint_000001", "")
        return run_id

    def ablate(self, trials: int, status: str = "FINISHED", **more: Any) -> tuple[str, list[str]]:
        """Record an ablation, and its trials s0, s1, ..., of which the first one is the best."""
        parent = self.run("ablate", "ablate digits", status=status)
        place = f"{self.output}/{parent}"
        remember(place, KeptRun(job="ablate", run_id=parent, run_name="ablate digits", spec={}, images={}))
        children = []
        for number in range(trials):
            child = self.run("train", f"trial s{number}", TRIAL=f"s{number}", PARENT=parent, **more)
            self.client.log_metric(child, metric_names.BEST_VALIDATION, 3.0 + number)
            remember(folder_of_trial(place, f"s{number}"), KeptResult(state="finished", score=3.0 + number))
            self._checkpoint(f"{place}/tune-1/{number}/checkpoint_000001", f"s{number}")
            children.append(child)
        return parent, children

    def _checkpoint(self, folder: str, trial: str) -> None:
        from glowctl.outputs import open_storage

        files, path = open_storage(folder)
        files.create_dir(path, recursive=True)
        facts = {"trial": trial, "steps": 1, "sizes": {"weights": 2000}}
        for name, content in {"weights": b"w" * 2000, "progress.json": json.dumps(facts).encode()}.items():
            with files.open_output_stream(f"{path}/{name}") as stream:
                stream.write(content)

    def evaluate(self, training: str, age_d: float = 40.0, job: str = "nll", **tags: str) -> str:
        """Record an evaluation of the model of a training, with a folder of 300 bytes."""
        run_id = self.run(job, f"{job} of it", age_d, TRAIN_RUN=training, PARENT=training, **tags)
        if "://" not in self.output:
            folder = Path(self.output, run_id)
            folder.mkdir(parents=True)
            (folder / "scores.csv").write_bytes(b"c" * 300)
        return run_id

    def version(self, run_id: str) -> str | None:
        """Return the number of the version that the training has registered."""
        found = self.client.search_model_versions(f"run_id = '{run_id}'")
        return str(found[0].version) if found else None

    def is_whole(self, run_id: str) -> bool:
        """Return whether a training or a trial has all that its job left of it."""
        run = self.client.get_run(run_id)
        tags = run.data.tags
        label, owner = tags.get(tag_names.TRIAL), tags.get(tag_names.PARENT, run_id)
        place = Path(self.output, owner)
        files = [*place.glob(f"tune-1/{label[1:]}/*/*" if label else "checkpoint_000001/*")]
        files += [place / "trials" / label / "trial.json"] if label else [place / "run.json"]
        return (
            run.info.lifecycle_stage == "active"
            and tag_names.PRUNED not in tags
            and self.version(run_id) is not None
            and sorted(file.name for file in files)[-1:] == ["weights"]
            and len(files) == 3
            and all(file.is_file() for file in files)
            and self._artifacts(run_id) == {"scores.parquet", "MLmodel", "weights"}
        )

    def is_gone(self, run_id: str) -> bool:
        """Return whether nothing is left of a training or a trial, except in MLflow's trash."""
        run = self.client.get_run(run_id)
        label = run.data.tags.get(tag_names.TRIAL)
        place = Path(self.output, run.data.tags.get(tag_names.PARENT, run_id))
        files = [*place.glob(f"tune-1/{label[1:]}/*"), *place.glob(f"trials/{label}")] if label else [*place.glob("*")]
        is_deleted = run.info.lifecycle_stage == "deleted"
        return is_deleted and self.version(run_id) is None and not files and not self._artifacts(run_id)

    def _artifacts(self, run_id: str) -> set[str]:
        """Return the names of all artifacts of a run and of its logged models, deleted ones too."""
        root = self.folder / "mlartifacts"
        models = {path.parents[1].name for path in root.rglob("MLmodel") if run_id in path.read_text()}
        outputs = self.client.get_run(run_id).outputs
        models |= {output.model_id for output in (outputs.model_outputs if outputs is not None else [])}
        places = [path for owner in (run_id, *models) for path in root.rglob(owner)]
        return {path.name for place in places for path in place.rglob("*") if path.is_file()}
