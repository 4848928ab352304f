"""Whole evaluations through `glowctl`, on an embedded Ray with real worker processes, one of which is killed."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest
import torch
from PIL import Image

from glow import load_checkpoint, load_dataset, save_checkpoint
from glow.datasets import open_dataset
from glow.datasets.corruptions import all_corrupted
from glow.ood import OodSettings, evaluate_ood, fit_detectors, held_out_protocol, recommend
from glow.scoring import score
from glowctl.display.events import Event, Nll
from glowctl.errors import SpecError
from glowctl.evaluation import interpolate, nll, ood, sample
from glowctl.specs.base import validated
from glowctl.specs.evaluation import CORRUPTIONS, InterpolateSpec, NllSpec, OodSpec, SampleSpec
from glowctl.tracking.runs import find_run, read_table
from glowctl.tracking.store import open_store
from tests.jobs.command_line import Running, alive, check_quiet, glowctl, sentence_of, wait_until
from tests.jobs.record_facts import uri_of
from tests.jobs.trained import train_into

pytestmark = pytest.mark.ray


QUICK = ("--batch-sizes", "1,2,10", "--bootstraps", "1000")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A folder whose store has a trained model, and the id of the training run."""
    folder = tmp_path_factory.mktemp("evaluate")
    return folder, train_into(folder)


@pytest.fixture(scope="module")
def evaluated(store):
    """All four jobs on the newest model: the folder, the training's run id, the final events by kind, all events."""
    folder, run_id = store
    corrupted = ("--corruptions", "noise,blur", "--corruption-images", "50")
    done = glowctl(folder, "evaluate", "--temperatures", "0,0.7", "--grid", "3x4", *QUICK, *corrupted, "--json")
    check_quiet(done)
    events = [json.loads(line) for line in done.stdout.splitlines()]
    return folder, run_id, {event["event"]: event for event in events}, events


def table_of(uri: str, run_id: str, path: str) -> pd.DataFrame:
    """Return a table that a run recorded."""
    table = read_table(uri, run_id, path)
    assert table is not None
    return table


def results(folder: Path, event: dict) -> Path:
    return folder / "outputs" / event["run_id"]


def test_each_job_leaves_a_finished_run_nested_under_the_training(evaluated):
    folder, run_id, ends, _ = evaluated
    for kind, job in (("nll", "nll"), ("samples", "sample"), ("interpolation", "interpolate"), ("ood", "ood")):
        run = find_run(uri_of(folder), "glow", ends[kind]["run_id"])
        assert run.info.status == "FINISHED"
        assert run.info.run_name == f"{job} digits small"
        assert run.data.tags["glow.job"] == job
        assert run.data.tags["glow.dataset"] == "digits"
        assert run.data.tags["mlflow.parentRunId"] == run.data.tags["glow.train_run"] == run_id
        artifacts = {entry.path for entry in open_store(uri_of(folder), "glow")[0].list_artifacts(run.info.run_id)}
        local = {path.name for path in results(folder, ends[kind]).iterdir()}
        assert "spec.json" in local
        assert local <= artifacts


@pytest.mark.parametrize("m", [1, 2, 10])
def test_the_logged_model_answers_as_the_ood_job(evaluated, m):
    """Scores, thresholds and decisions agree on the same images."""
    import mlflow.pyfunc

    folder, run_id, ends, _ = evaluated
    uri = uri_of(folder)
    model = mlflow.pyfunc.load_model(model_at(uri, run_id))
    scored_by = json.loads(find_run(uri, "glow", ends["ood"]["run_id"]).data.tags["glow.scored_by"])
    tables = [table_of(uri, at, f"scores/{key}.parquet") for key, at in scored_by.items()]
    photos = next(table for table in tables if set(table["dataset"]) == {"photos"})
    images = load_dataset("photos", "test", image_shape=(1, 8, 8))[0][:m].numpy()
    answer = model.predict(images, params={"bootstraps": 1000})
    np.testing.assert_allclose(answer["nll"], photos["nll"][:m], rtol=1e-6)
    rows = table_of(uri, ends["ood"]["run_id"], "ood.parquet").query("detector == 'typicality' and batch_size == @m")
    assert answer["threshold"] == pytest.approx(rows["threshold"].iloc[0], rel=1e-9)
    assert answer["is_ood"] == (answer["distance"] > answer["threshold"])


def model_at(uri, run_id):
    """Return the place of the run's logged model."""
    client, _ = open_store(uri, "glow")
    outputs = find_run(uri, "glow", run_id).outputs
    assert outputs is not None
    return client.get_logged_model(outputs.model_outputs[0].model_id).artifact_location


def test_no_image_is_scored_twice(evaluated):
    """The training has scored all images of the digits, and both jobs find these scores."""
    _, run_id, _, events = evaluated
    scored = [(event["dataset"], event["split"], event["from_run"]) for event in events if event["event"] == "scored"]
    assert {at for name, _, at in scored if name == "digits"} == {run_id}
    assert scored.count(("digits", "test", run_id)) == 2
    assert ("digits-corrupted", "validation", run_id) in scored
    assert {at for name, split, at in scored if name != "digits" and split != "validation"} == {None}
    assert {(name, split) for name, split, _ in scored} == {
        ("digits", "train"),
        ("digits", "validation"),
        ("digits", "test"),
        ("photos", "test"),
        ("noise", "test"),
        ("constant", "test"),
        ("digits-corrupted", "validation"),
        ("digits-corrupted", "test"),
    }


def test_the_nll_is_the_librarys(evaluated):
    folder, _, ends, _ = evaluated
    model = load_checkpoint(folder / "trained" / "checkpoint")
    images, labels = load_dataset("digits", "test")
    expected = score(model, images, labels)
    (row,) = ends["nll"]["rows"]
    assert row["bits_per_dim"] == pytest.approx(expected["bits_per_dim"].mean(), rel=1e-5)
    assert row["bits_per_dim_low"] < row["bits_per_dim"] < row["bits_per_dim_high"]
    assert row["images"] == len(images)
    threes = next(row for row in ends["nll"]["per_class"] if row["class_name"] == "3")
    assert threes["bits_per_dim"] == pytest.approx(
        expected.loc[expected["label"] == 3, "bits_per_dim"].mean(), rel=1e-5
    )
    run = find_run(uri_of(folder), "glow", ends["nll"]["run_id"])
    assert run.data.metrics["bits_per_dim/digits"] == pytest.approx(row["bits_per_dim"])


@pytest.mark.nightly
def test_several_noise_samples_give_the_importance_weighted_bound(store):
    folder, _ = store
    done = glowctl(folder, "nll", "--noise-samples", "4", "--json")
    check_quiet(done)
    end = last_event(done.stdout.splitlines())
    table = score(load_checkpoint(folder / "trained" / "checkpoint"), *load_dataset("digits", "test"), noise_samples=4)
    per_bit = 1 / (64 * np.log(2))
    (row,), (bound,) = end["rows"], end["bounds"]
    assert row["bits_per_dim"] == pytest.approx(table["bits_per_dim"].mean(), rel=1e-5)
    assert bound["bits_per_dim"] == pytest.approx(table["nll_bound"].mean() * per_bit, rel=1e-5)
    assert bound["gain"] == pytest.approx((table["nll_of_all"] - table["nll_bound"]).mean() * per_bit, rel=1e-3)
    assert bound["gain_low"] < bound["gain"] < bound["gain_high"]
    run = find_run(uri_of(folder), "glow", end["run_id"])
    assert run.data.metrics["bits_per_dim_bound/digits"] == pytest.approx(bound["bits_per_dim"])
    work = nll.prepare(validated(NllSpec, here(folder) | {"noise_samples": 4}))
    assert not work.evaluation.needs_ray  # finds the scores in MLflow
    events: list[Event] = []
    nll.run(work, events.append)
    assert [event.bounds for event in events if isinstance(event, Nll)] == [end["bounds"]]


def test_the_score_table_is_in_mlflow_and_complete(evaluated):
    folder, _, ends, _ = evaluated
    scored_by = json.loads(find_run(uri_of(folder), "glow", ends["nll"]["run_id"]).data.tags["glow.scored_by"])
    ((key, at),) = scored_by.items()
    table = table_of(uri_of(folder), at, f"scores/{key}.parquet")
    assert list(table.columns) == [
        "dataset",
        "split",
        "index",
        "label",
        "nll",
        "bits_per_dim",
        "log_det",
        "log_prior_1",
        "log_prior_2",
        "log_det_1",
        "log_det_2",
        "latent_anderson",
        "latent_spectrum",
        "latent_neighbours",
        *(f"latent_{what}_{level}" for what in ("power", "rows", "columns") for level in (1, 2)),
        "finite",
        "complexity",
    ]
    assert table["index"].tolist() == list(range(len(table)))


def scores(folder: Path, run_id: str) -> pd.DataFrame:
    """Return the only score table that a run recorded."""
    run = find_run(uri_of(folder), "glow", run_id)
    (path,) = [value for name, value in run.data.tags.items() if name.startswith("glow.scores.")]
    return table_of(uri_of(folder), run_id, path)


@pytest.mark.slow
def test_the_ood_job_gives_the_results_of_the_library(evaluated):
    folder, _, ends, _ = evaluated
    model = load_checkpoint(folder / "trained" / "checkpoint")
    train, validation = (score(model, *load_dataset("digits", split)) for split in ("train", "validation"))
    names = ("digits", "photos", "noise", "constant")
    tests = {name: score(model, *load_dataset(name, "test", image_shape=(1, 8, 8))) for name in names}
    expected = evaluate_ood(
        train, held_out_protocol(validation, tests), OodSettings(batch_sizes=(1, 2, 10), bootstraps=1000)
    )
    ratios = pd.read_parquet(results(folder, ends["ood"]) / "ood.parquet")
    pd.testing.assert_frame_equal(ratios, expected.ratios, rtol=1e-3)
    run = find_run(uri_of(folder), "glow", ends["ood"]["run_id"])
    for row in expected.ratios.to_dict("records"):
        if row["detector"] == "typicality":
            metric = f"ood_ratio/{row['dataset']}/M{row['batch_size']}"
            assert run.data.metrics[metric] == pytest.approx(row["ratio"])
    assert run.data.metrics["ood_ratio/noise/M10"] == 1
    images = all_corrupted(open_dataset("digits", "validation"), CORRUPTIONS, (3,), 300)
    corrupted = score(model, images.images(), images.labels)
    chosen = recommend(fit_detectors(train), validation, corrupted, CORRUPTIONS)
    assert ends["ood"]["recommended"] == chosen.detector
    assert {row["detector"] for row in ends["ood"]["regret"]} == {chosen.detector}
    assert "| digits |" in run.data.tags["mlflow.note.content"]


def test_every_picture_is_drawn(evaluated):
    folder, _, ends, _ = evaluated
    expected = {
        "nll": ["nll_histogram.png"],
        "samples": ["temperatures.png", "samples-T0.png", "samples-T0.7.png"],
        "interpolation": ["interpolation.png"],
        "ood": ["nll_histogram.png", "ood_ratio.png", "per_class-digits.png", *(f"roc-M{m}.png" for m in (1, 2, 10))],
    }
    for kind, names in expected.items():
        for name in names:
            with Image.open(results(folder, ends[kind]) / name) as picture:
                assert min(picture.size) > 100, name


def test_samples_follow_the_temperature(evaluated):
    folder, _, ends, _ = evaluated
    cold, warm = (np.load(results(folder, ends["samples"]) / f"samples-T{t}.npy") for t in ("0", "0.7"))
    assert cold.shape == warm.shape == (12, 1, 8, 8)
    model = load_checkpoint(folder / "trained" / "checkpoint")
    by_class = np.arange(12) * 10 // 12  # all classes in turn; at temperature 0 each has only one image
    for label in np.unique(by_class):
        assert len(np.unique(cold[by_class == label], axis=0)) == 1
    assert len(np.unique(warm, axis=0)) == 12
    assert model.config.num_classes == 10
    assert ends["samples"]["non_finite"] == 0


@pytest.mark.nightly
def test_samples_with_pixels_that_are_not_finite_are_counted(store, tmp_path):
    """The standard deviations of one class are infinite in float32, so that none of its samples is finite."""
    folder, _ = store
    model = load_checkpoint(folder / "trained" / "checkpoint")
    assert model.top.classes is not None
    with torch.no_grad():
        model.top.classes.weight[3] = 100.0
    save_checkpoint(model, tmp_path / "checkpoint")
    arguments = ("sample", "--model", str(tmp_path / "checkpoint"), "--temperatures", "0.5,1", "--grid", "4x5")
    done = glowctl(folder, *arguments, "--json")
    check_quiet(done)
    end = last_event(done.stdout.splitlines())
    assert end["non_finite"] == 4  # two images of each class at each of two temperatures
    assert find_run(uri_of(folder), "glow", end["run_id"]).data.metrics["non_finite"] == 4


def test_interpolations_end_at_the_real_images(evaluated):
    folder, _, ends, _ = evaluated
    rows = np.load(results(folder, ends["interpolation"]) / "interpolation.npy")
    table = pd.read_parquet(results(folder, ends["interpolation"]) / "interpolation.parquet")
    images, labels = load_dataset("digits", "test")
    assert rows.shape == (10, 10, 1, 8, 8)
    assert labels[table["from"].to_list()].tolist() == labels[table["to"].to_list()].tolist() == list(range(10))
    assert (table["from"] != table["to"]).all()
    assert (rows[:, 0] == images[table["from"].to_list()].numpy()).all()
    assert (rows[:, -1] == images[table["to"].to_list()].numpy()).all()
    assert ends["interpolation"]["inexact_rows"] == 0
    assert 0 < ends["interpolation"]["end_error"] < 0.5


def test_corruptions_of_the_test_images_are_caught_or_not(evaluated):
    folder, _, ends, _ = evaluated
    end = ends["ood"]
    assert [row["corruption"] for row in end["caught"]] == ["noise", "blur"]
    assert all(m in (1, 2, 10, None) for row in end["caught"] for m in row["batch_sizes"])
    power = pd.read_parquet(results(folder, end) / "ood_corruptions.parquet")
    assert set(power["detector"]) == {"typicality", end["recommended"]}
    assert power.groupby(["detector", "batch_size"]).size().unique().tolist() == [10]
    assert (results(folder, end) / f"corruptions-{end['recommended']}.png").exists()


@pytest.mark.slow
def test_a_second_test_touches_no_model(evaluated, one_process, tmp_path):
    folder, _, ends, _ = evaluated
    spec = json.loads((results(folder, ends["ood"]) / "spec.json").read_text())
    without = {name: value for name, value in spec.items() if not name.startswith("corruption")}
    (tmp_path / "spec.json").write_text(json.dumps(without))
    asked = ("--spec", str(tmp_path / "spec.json"), "--batch-sizes", "2,7", "--cpus-per-worker", "999")
    done = one_process(folder, "ood", *asked, "--protocol", "split-test", "--repeats", "2", "--json")
    assert done.returncode == 0, done.stderr  # no worker of 999 cores was asked for
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert all(event["from_run"] is not None for event in events if event["event"] == "scored")
    end = events[-1]
    assert (end["protocol"], end["bootstraps"], end["repeats"]) == ("split-test", 1000, 2)
    assert end.get("recommended") is None  # this protocol holds out no images
    assert {row["batch_size"] for row in end["rows"]} == {2, 7}
    assert {row["batches"] for row in end["rows"] if row["dataset"] == "digits" and row["batch_size"] == 2} == {
        88
    }  # half of 354, in twos


@pytest.mark.nightly
def test_gradients_and_a_background_of_a_model_that_was_trained_without_some_classes(tmp_path):
    """The model is its own background, which tells nothing apart."""
    train_into(tmp_path, leave_out="8,9", per_class=60)
    (tmp_path / "noise").mkdir()
    noise = np.random.default_rng(0).integers(256, size=(100, 1, 8, 8), dtype=np.uint8)
    np.savez(tmp_path / "noise/test.npz", images=noise)
    asked = ("--background-model", "trained", "--gradients", "--batch-sizes", "1", "--ood-datasets", "arrays:noise")
    done = glowctl(tmp_path, "ood", *asked, "--json")
    check_quiet(done)
    events = [json.loads(line) for line in done.stdout.splitlines()]
    scored = [event for event in events if event["event"] == "scored"]
    by_model, by_background = (
        {(event["dataset"], event["split"]): event["images"] for event in scored if event.get("background_model") == by}
        for by in (None, "trained")
    )
    assert by_model == by_background
    _, labels = load_dataset("digits", "test")
    assert by_model["digits-left-out", "test"] == (labels >= 8).sum()
    assert by_model["digits", "test"] == (labels < 8).sum()
    rows = events[-1]["rows"]
    assert {row["dataset"] for row in rows} == {"digits", "digits-left-out", "arrays-noise"}
    aurocs = {row["detector"]: row["auroc"] for row in rows if row["dataset"] == "arrays-noise"}
    assert aurocs["ratio"] == 0.5
    assert aurocs["gradients"] > 0.9
    assert aurocs["typicality"] > 0.9


def last_event(lines: list[str]) -> dict:
    return json.loads([line for line in lines if line.startswith("{")][-1])


@pytest.mark.slow
def test_three_workers_and_a_killed_one_leave_the_scores_of_the_library(store):
    """10,000 images are ten shards. One of the workers is killed while it scores."""
    folder, _ = store
    arguments = ("nll", "--datasets", "noise", "--split", "train", "--rescore", "--cpus-per-worker", "0.5")
    running = Running(folder, *arguments, "--workers", "3", "--json")
    victims: list[psutil.Process] = []

    def scoring() -> bool:
        assert running.process.poll() is None, running.lines()
        victims[:] = running.named("ray::score_shard")
        return bool(victims)

    wait_until(scoring, every=0.01)
    victims[0].kill()
    assert running.wait() == 0, running.lines()
    assert not alive(victims[:1])
    found = scores(folder, last_event(running.lines())["run_id"])
    images = load_dataset("noise", "train", image_shape=(1, 8, 8))
    expected = score(load_checkpoint(folder / "trained" / "checkpoint"), *images)
    assert len(found) == 10_000
    pd.testing.assert_frame_equal(found[expected.columns], expected, rtol=1e-5)


def here(folder: Path) -> dict[str, str]:
    return {"tracking_uri": uri_of(folder), "output": str(folder / "outputs")}


@pytest.mark.parametrize(
    ("job", "spec", "values", "code", "facts"),
    [
        (
            ood,
            OodSpec,
            {"protocol": "split-test", "corruptions": "all"},
            "corruptions-without-held-out",
            ["--corruptions", "--protocol split-test"],
        ),
        (
            ood,
            OodSpec,
            {"batch_sizes": "1,2000"},
            "batch-size-too-large",
            ["digits validation", "2000", "--batch-sizes"],
        ),
        (ood, OodSpec, {"alpha": 0.9999}, "too-few-held-out", ["--alpha 0.9999", "9999", "digits validation"]),
        (ood, OodSpec, {"ood_datasets": "digits"}, "no-ood-data-sets", ["digits", "--ood-datasets"]),
        (ood, OodSpec, {"ood_datasets": "nois"}, "data-set-unusable", ["'nois'", "noise"]),
        (sample, SampleSpec, {"only_class": "A"}, "class-not-found", ["--class 'A'", "0, 1, 2"]),
        (interpolate, InterpolateSpec, {"pairs_per_class": 100}, "too-few-images", ["--pairs-per-class 100", "200"]),
    ],
)
def test_what_does_not_fit_the_model_or_its_data_is_refused_before_ray_starts(store, job, spec, values, code, facts):
    folder, _ = store
    with pytest.raises(SpecError) as refused:
        job.prepare(validated(spec, here(folder) | values))
    assert refused.value.code == code
    for fact in facts:
        assert fact in str(refused.value)


def test_errors_of_the_command_line_are_one_sentence(store, one_process):
    folder, _ = store
    for arguments, code, fact in (
        (["ood", "--alpha", "2"], 2, "alpha"),
        (["sample", "--model", "nothing"], 1, "'nothing'"),
        (["interpolate", "--from", "x.png", "--to", "y.png"], 1, "x.png"),
    ):
        assert fact in sentence_of(one_process(folder, *arguments), code)
    runs = open_store(uri_of(folder), "glow")[0].search_runs(["1"], "attributes.status = 'FAILED'")
    assert not runs
