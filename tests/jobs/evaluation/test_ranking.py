"""Evaluations write their metrics onto the model, by which MLflow orders models. No Ray starts: no score is missing."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from glow import FitConfig, Glow, fit, save_checkpoint
from glow.datasets import fingerprint, load_dataset
from glowctl.display.events import Event, Nll, Ood
from glowctl.evaluation import nll, ood
from glowctl.specs.base import validated
from glowctl.specs.evaluation import NllSpec, OodSpec
from glowctl.specs.training import make_train_spec
from glowctl.tracking.record import Record
from glowctl.tracking.runs import recorded_images
from glowctl.tracking.store import client_of
from glowctl.training.prepare import prepare
from glowctl.training.publish import release
from tests.jobs.evaluation.small_model import record_scores
from tests.jobs.served import default_store
from tests.jobs.stores import mlflow_server

pytestmark = pytest.mark.slow

PAGE = Path(__file__).parents[3] / "docs" / "evaluation.md"
EPOCHS = {"good": 4, "poor": 1}


@pytest.fixture(scope="module")
def uri(tmp_path_factory):
    """The address of an MLflow server on this machine, which MLflow 3.6 finds only if it is the default store."""
    with mlflow_server(tmp_path_factory.mktemp("server")) as server, default_store(server.uri):
        yield server.uri


@pytest.fixture(scope="module")
def evaluated(uri, tmp_path_factory):
    """Train and evaluate two models; return their ids in MLflow, and the evaluations' run ids, by name and job."""
    folder = tmp_path_factory.mktemp("ranking")
    images, _ = load_dataset("digits", "test")
    noise = np.random.default_rng(0).integers(-6, 7, images.shape)
    np.savez(folder / "test.npz", images=np.clip(images.numpy() + noise, 0, 255).astype(np.uint8), labels=[0] * 355)
    where = {"tracking_uri": uri, "output": str(folder)}
    work = prepare(make_train_spec("smoke", {"dataset": "digits", **where}))
    found: dict[str, dict[str, str]] = {}
    for name, epochs in EPOCHS.items():
        torch.manual_seed(0)
        model = Glow(work.config)
        how = FitConfig(epochs=epochs, batch_size=64, warmup_steps=10, learning_rate=3e-3)
        fit(model, work.splits["train"].images(), config=how)
        record = Record.start(uri, "glow", name, work.tags(), {})
        checkpoint = save_checkpoint(model, folder / name / "checkpoint")
        released = release(work, record, checkpoint, {}, 3.0)
        record.finish("FINISHED")
        given = {"model": record.run_id, **where}
        scores = nll.prepare(validated(NllSpec, given))
        others = {"ood_datasets": f"arrays:{folder}", "batch_sizes": "2", "alpha": 0.5, "bootstraps": 50}
        record_scores(ood.prepare(validated(OodSpec, given | others)).evaluation, model, "scores")
        tests = ood.prepare(validated(OodSpec, given | others))
        assert not scores.evaluation.needs_ray  # the training has scored its test images
        events: list[Event] = []
        nll.run(scores, events.append)
        ood.run(tests, events.append)
        ends = {event.kind: event.run_id for event in events if isinstance(event, Nll | Ood)}
        found[name] = {"model": released.model_id, **ends}
    return found


def ranked(uri, metric, ascending, **images):
    """Return the ids of the models in the order in which MLflow ranks them by a metric."""
    client = client_of(uri)
    experiment = client.get_experiment_by_name("glow")
    assert experiment is not None
    order = {"field_name": f"metrics.{metric}", "ascending": ascending, **images}
    return [model.model_id for model in client.search_logged_models([experiment.experiment_id], order_by=[order])]


def metrics_on_models(uri, evaluated, name):
    model = client_of(uri).get_logged_model(evaluated[name]["model"])
    return {(metric.key, metric.dataset_name): metric for metric in model.metrics or []}


def test_models_are_ranked_by_their_test_nll(uri, evaluated):
    good, poor = (evaluated[name]["model"] for name in EPOCHS)
    on_models = [metrics_on_models(uri, evaluated, name)["bits_per_dim/digits", "digits test"] for name in EPOCHS]
    assert on_models[0].value < on_models[1].value - 0.05
    (digest,) = {metric.dataset_digest for metric in on_models}
    images = {"dataset_name": "digits test", "dataset_digest": digest}
    assert ranked(uri, "bits_per_dim/digits", True, **images) == [good, poor]
    assert ranked(uri, "bits_per_dim/digits", False, **images) == [poor, good]
    elsewhere = images | {"dataset_digest": "0" * 16}  # no model has the metric there: the newest comes first
    assert ranked(uri, "bits_per_dim/digits", True, **elsewhere) == [poor, good]


def test_models_are_ranked_by_their_auroc_on_a_data_set(uri, evaluated):
    found = {name: metrics_on_models(uri, evaluated, name) for name in EPOCHS}
    (other,) = {images for metric, images in found["good"] if metric.startswith("auroc/")}
    metrics = [metric for metric, images in found["good"] if "auroc/" in metric and images == other]
    assert len(metrics) > 1
    for metric in metrics:
        values = {evaluated[name]["model"]: found[name][metric, other].value for name in EPOCHS}
        if len(set(values.values())) == 2:
            assert ranked(uri, metric, False, dataset_name=other) == sorted(values, key=lambda of: -values[of])
    first = [max(EPOCHS, key=lambda name: found[name][metric, other].value) for metric in metrics]
    assert set(first) == set(EPOCHS)  # so the order is not that of the models by age


def test_an_evaluation_records_its_images_as_those_of_trainings(uri, evaluated):
    for job, splits in (("nll", ("test",)), ("ood", ("train", "validation", "test"))):
        images = recorded_images(client_of(uri).get_run(evaluated["good"][job]))
        for split in splits:
            assert images[f"digits {split}"] == fingerprint(load_dataset("digits", split)[0])


def test_the_query_of_the_page_prints_the_models_in_order(uri, evaluated, capsys):
    (query,) = re.findall(r"```python\n(import mlflow\n.*?search_logged_models.*?)```", PAGE.read_text(), re.DOTALL)
    exec(query, {})
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [evaluated[name]["model"] for name in EPOCHS]
    assert [float(line.split()[1]) for line in lines] == [
        pytest.approx(metrics_on_models(uri, evaluated, name)["bits_per_dim/digits", "digits test"].value)
        for name in EPOCHS
    ]
