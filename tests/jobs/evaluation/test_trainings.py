"""OOD tests with several models, and the mean over those that differ in their seed. All scores are there before."""

import json

import pandas as pd
import pytest

from glowctl.errors import JobError
from glowctl.evaluation import ood
from glowctl.evaluation.find_model import models_named
from glowctl.evaluation.trainings import RECOMMENDED
from glowctl.specs.base import validated
from glowctl.specs.evaluation import OodSpec
from glowctl.specs.training import TrainSpec
from glowctl.tracking import tag_names
from glowctl.tracking.record import Record
from glowctl.tracking.runs import find_run
from tests.jobs.evaluation.small_model import record_scores, save_model, where
from tests.jobs.evaluation.test_encoder import save_images

TRAININGS = {"first": {"seed": 0}, "second": {"seed": 1}, "longer": {"seed": 1, "epochs": 9}}
"""Model -> the settings of its training that differ."""


@pytest.fixture
def given(tmp_path):
    """Settings of `ood` without a model; `TRAININGS` are models in `tmp_path`, all of whose scores are recorded."""
    own = save_images(tmp_path / "own", {"train": 120, "validation": 60, "test": 60})
    settings = {
        "ood_datasets": save_images(tmp_path / "other", {"test": 60}, noise=5),
        "batch_sizes": "1,3",
        "alpha": 0.9,
        "bootstraps": 100,
        **where(tmp_path),
    }
    for number, (name, differing) in enumerate(TRAININGS.items()):
        model = save_model(tmp_path / name, seed=number)
        training = validated(TrainSpec, {"dataset": own, **differing})
        (tmp_path / name / "spec.json").write_text(training.to_json())
        of_model = validated(OodSpec, settings | {"model": str(tmp_path / name)})
        record_scores(ood.prepare(of_model).evaluation, model, name)
    return settings


@pytest.mark.slow
def test_models_that_differ_in_their_seed_have_a_mean(given, tmp_path, one_process):
    models = ",".join(str(tmp_path / name) for name in TRAININGS)
    flags = [part for name, value in given.items() for part in (f"--{name.replace('_', '-')}", str(value))]
    done = one_process(tmp_path, "ood", "--model", models, *flags, "--json")
    assert done.returncode == 0, done.stderr
    events = [json.loads(line) for line in done.stdout.splitlines()]
    single = [pd.DataFrame(event["rows"]) for event in events if event["event"] == "ood"]
    (together,) = [event for event in events if event["event"] == "ood-trainings"]
    means = pd.DataFrame(together["rows"]).set_index(["model", "detector", "dataset", "batch_size"])
    seeds, longer = means.index.unique("model")
    key = "joint", "arrays-other", 3
    asked = "detector == 'joint' and dataset == 'arrays-other' and batch_size == 3"
    of_each = [float(table.query(asked)["auroc"].item()) for table in single]
    assert means.loc[(seeds, *key), "auroc"] == pytest.approx((of_each[0] + of_each[1]) / 2)
    assert means.loc[(longer, *key), "auroc"] == pytest.approx(of_each[2])
    assert means["trainings"].groupby("model").unique().str[0].to_dict() == {seeds: 2, longer: 1}
    assert RECOMMENDED in means.index.unique("detector")
    run = find_run(given["tracking_uri"], "glow", together["run_id"])
    assert run.info.status == "FINISHED"
    assert "mean over 2 trainings" in run.data.tags["mlflow.note.content"]
    again = one_process(tmp_path, "ood", "--spec", f"{together['place']}/spec.json", "--json")
    repeated = [json.loads(line) for line in again.stdout.splitlines()]
    assert repeated[-1]["rows"] == together["rows"]


def test_an_ablation_stands_for_its_finished_trials(uri):
    tags = {tag_names.JOB: "ablate"}
    ablation, empty = (Record.start(uri, "glow", name, tags, {}) for name in ("depths", "empty"))
    of_trial = {tag_names.JOB: "train", tag_names.TRIAL: "t", tag_names.PARENT: ablation.run_id}
    trials = [Record.start(uri, "glow", f"trial {number}", of_trial, {}) for number in range(3)]
    trials[0].finish("FINISHED")
    trials[1].finish("FAILED")
    trials[2].finish("FINISHED")
    finished = [trials[0].run_id, trials[2].run_id]
    assert models_named("depths", uri, "glow") == finished
    assert models_named(f"{trials[1].run_id}, depths", uri, "glow") == [trials[1].run_id, *finished]
    assert models_named(None, uri, "glow") == [None]
    assert models_named("models:/a@b,runs:/c/model", uri, "glow") == ["models:/a@b", "runs:/c/model"]
    with pytest.raises(JobError, match=rf"no finished trial.*ablate --resume {empty.run_id}"):
        models_named("empty", uri, "glow")
