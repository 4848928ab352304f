"""`glowctl diff`, on runs and score tables that the tests write themselves."""

import json

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from glowctl.browse.diff import diff_runs
from glowctl.errors import SpecError
from glowctl.tracking.record import Record
from glowctl.tracking.scores import key_of, labelled, save_scores, tables_by_images
from glowctl.tracking.store import client_of
from glowctl.tracking.uris import NoSuchRun

IMAGES = 500
MODELS = ("a" * 16, "b" * 16)
ENVIRONMENT = {"python": "3.11.7", "platform": "Linux-6.1"}
MACHINE = {"processor": "EPYC", "cores": 2, "gpus": ["A100", "A100"], "driver": "550"}


def scores_of(model, split="test"):
    """NLLs of images under one of the two models; b is worse by 0.01 on average, and by 3 on image 7."""
    rng = np.random.default_rng(["train", "validation", "test"].index(split))
    of_a, noise = rng.gamma(4.0, 0.5, IMAGES), rng.normal(0.01, 0.02, IMAGES)
    noise[7] = 3.0
    bits = of_a + (noise if model == MODELS[1] else 0.0)
    return pd.DataFrame({"index": np.arange(IMAGES), "label": np.arange(IMAGES) % 10, "bits_per_dim": bits})


def scored(record, model, dataset="mnist", split="test", fingerprint="f1", bits=8, seed=0, table=None):
    """Record the scores of a model's images as one of the record's tables; return their key."""
    key = key_of(model, fingerprint, bits, split, seed, "float32")
    save_scores(key, labelled(scores_of(model, split) if table is None else table, dataset, split), record)
    return key


def training(uri, model, name, spec=None, params=None, torch="2.13.0", splits=("test",), **how):
    spec = {"dataset": "mnist", "depth": 8, "seed": 0} | (spec or {})
    tags = {"glow.job": "train", "glow.spec": json.dumps(spec), "mlflow.source.git.commit": "c0ffee"}
    tags |= {"glow.source_changed": "False"} | how.pop("tags", {})
    record = Record.start(uri, "glow", name, tags, {"bits": 8} | (params or {}))
    machines = how.pop("machines", {})
    environment = ENVIRONMENT | {"packages": {"torch": torch, "numpy": "2.1.0"}, "machines": machines}
    client_of(uri).log_text(record.run_id, json.dumps(environment), "environment.json")
    record.dataset((IMAGES, 1, 32, 32), "mnist test", how.get("fingerprint", "f1"), "test", "mnist")
    for split in splits:
        scored(record, model, split=split, **how)
    record.finish("FINISHED")
    return record


def evaluation(uri, train, model, job="nll", scored_by=None):
    tags = {"glow.job": job, "glow.model": train.name, "glow.train_run": train.run_id, "glow.model_digest": model}
    tags |= {"mlflow.parentRunId": train.run_id, "glow.scored_by": json.dumps(scored_by or {})}
    return Record.start(uri, "glow", f"{job} {train.name}", tags, {})


def commit(name, changed="False"):
    return {"mlflow.source.git.commit": name, "glow.source_changed": changed}


@pytest.fixture
def two(uri):
    """Two trainings, which differ in the seed, in torch and in a metric."""
    runs = [
        training(uri, model, f"train {seed}", {"seed": seed}, torch=torch)
        for seed, (model, torch) in enumerate(zip(MODELS, ("2.13.0", "2.12.0"), strict=True))
    ]
    for record, value in zip(runs, (1.5, 1.25), strict=True):
        record.metrics({"test/bits_per_dim": value, "best_epoch": 2, "system/cpu": value})
    return runs


def told(capsys, uri, a, b, data=None):
    diff_runs(uri, None, (a, b), data, as_json=True)
    return json.loads(capsys.readouterr().out)


def printed(capsys, uri, a, b, data=None):
    diff_runs(uri, None, (a, b), data, as_json=False)
    return capsys.readouterr().out


def test_only_what_differs_is_told(capsys, uri, two):
    found = told(capsys, uri, "train 0", "train 1")
    assert (found["a"]["run_id"], found["b"]["run"]) == (two[0].run_id, "train 1")
    assert found["settings"] == {"seed": {"a": 0, "b": 1}}
    assert found["packages"] == {"torch": {"a": "2.13.0", "b": "2.12.0"}}
    assert found["metrics"] == {"test/bits_per_dim": {"a": 1.5, "b": 1.25}}
    assert found["code"] == found["data"] == found["machines"] == {}
    shown = printed(capsys, uri, two[0].run_id[:12], two[1].run_id)
    assert "the same: code, data" in shown
    assert "machines: not recorded by a and b" in shown
    assert [line.split() for line in shown.splitlines() if line.startswith(("seed", "torch", "test/"))] == [
        ["seed", "0", "1"],
        ["torch", "2.13.0", "2.12.0"],
        ["test/bits_per_dim", "1.5", "1.25"],
    ]


def test_commits_data_and_nested_settings_are_compared(capsys, uri):
    training(uri, MODELS[0], "one", {"train": {"depth": 8, "width": 16}})
    training(uri, MODELS[1], "two", {"train": {"depth": 16, "width": 16}}, fingerprint="f2", tags=commit("decaf"))
    found = told(capsys, uri, "one", "two")
    assert found["settings"] == {"train.depth": {"a": 8, "b": 16}}
    assert found["code"] == {"commit": {"a": "c0ffee", "b": "decaf"}}
    assert found["data"] == {"mnist test": {"a": "f1", "b": "f2"}}


def test_uncommitted_changes_are_never_the_same_code(capsys, uri):
    for model, name in zip(MODELS, ("one", "two"), strict=True):
        training(uri, model, name, tags=commit("c0ffee", changed="True"))
    assert told(capsys, uri, "one", "two")["code"] == {"uncommitted changes": {"a": "yes", "b": "yes"}}
    assert "the same: settings, packages, data" in printed(capsys, uri, "one", "two")


def test_the_machines_of_two_runs_are_compared_by_what_they_are_made_of(capsys, uri):
    training(uri, MODELS[0], "one", machines={"node-0": MACHINE, "node-1": MACHINE})
    training(uri, MODELS[1], "two", machines={"node-0": MACHINE | {"driver": "560"}, "node-1": MACHINE})
    found = told(capsys, uri, "one", "two")
    assert found["machines"] == {"driver": {"a": ["550"], "b": ["550", "560"]}}
    assert ["driver", "550", "550,", "560"] in [
        line.split() for line in printed(capsys, uri, "one", "two").splitlines()
    ]


def test_the_difference_is_that_of_scipy_paired_per_image(capsys, uri, two):
    (found,) = told(capsys, uri, "train 0", "train 1")["nll"]
    a, b = (scores_of(model)["bits_per_dim"] for model in MODELS)
    expected = stats.ttest_rel(a, b)
    interval = expected.confidence_interval(0.95)
    names = ("dataset", "split", "images", "left_out")
    assert [found[name] for name in names] == ["mnist", "test", IMAGES, 0]
    assert [found[name] for name in ("a", "b", "difference", "low", "high", "p")] == pytest.approx(
        [a.mean(), b.mean(), (a - b).mean(), interval.low, interval.high, expected.pvalue], rel=1e-6
    )
    worst = found["a_better"][0]
    assert worst == {"position": 7, "label": 7, "a": a[7], "b": b[7], "difference": pytest.approx(-3.0)}
    assert found["b_better"][0]["position"] == int(np.argmax(a - b))
    shown = printed(capsys, uri, "train 0", "train 1")
    (line,) = [line for line in shown.splitlines() if line.startswith("mnist test ")]
    assert line.split()[2:6] == ["500", f"{a.mean():.3f}", f"{b.mean():.3f}", f"{(a - b).mean():.4f}"]
    assert line.split()[-1] == "a"


def test_images_without_a_finite_score_are_left_out_of_both_means(capsys, uri, two):
    tables = [scores_of(model) for model in MODELS]
    tables[1].loc[3, "bits_per_dim"] = np.inf
    for record, model, table in zip(two, MODELS, tables, strict=True):
        scored(record, model, "photos", fingerprint="f9", table=table)
    (found,) = told(capsys, uri, "train 0", "train 1", "photos")["nll"]
    assert (found["images"], found["left_out"]) == (IMAGES - 1, 1)
    assert found["a"] == pytest.approx(tables[0]["bits_per_dim"].drop(index=3).mean())
    assert "left out 1 image" in printed(capsys, uri, "train 0", "train 1", "photos")


def test_every_split_that_both_models_have_scored_is_compared_unless_one_is_named(capsys, uri):
    for model, name in zip(MODELS, ("one", "two"), strict=True):
        training(uri, model, name, splits=("train", "validation", "test"))
    assert [each["split"] for each in told(capsys, uri, "one", "two")["nll"]] == ["test", "validation", "train"]
    (found,) = told(capsys, uri, "one", "two", "mnist validation")["nll"]
    assert found["split"] == "validation"
    assert len(told(capsys, uri, "one", "two", "mnist")["nll"]) == 3
    with pytest.raises(SpecError, match=r"--data 'svhn'.* choose one of .*mnist test") as raised:
        told(capsys, uri, "one", "two", "svhn")
    assert (raised.value.code, raised.value.exit_code) == ("no-common-images", 2)


def test_evaluations_are_compared_by_their_scores_and_count_for_their_training(capsys, uri, two):
    evaluations = []
    for train, model in zip(two, MODELS, strict=True):
        own = key_of(model, "f1", 8, "test", 0, "float32")
        record = evaluation(uri, train, model, scored_by={own: train.run_id})
        key = scored(record, model, "svhn", fingerprint="f3")
        record.tag("glow.scored_by", json.dumps({own: train.run_id, key: record.run_id}))
        evaluations.append(record)
    for a, b in (two, evaluations, (two[0], evaluations[1])):
        found = told(capsys, uri, a.run_id, b.run_id)["nll"]
        assert [each["dataset"] for each in found] == ["mnist", "svhn"]
    found = told(capsys, uri, evaluations[0].run_id, evaluations[1].run_id)
    assert found["packages"] == {}


def test_the_scores_of_a_background_model_are_not_those_of_the_model(uri, two):
    own, behind = (key_of(model, "f3", 8, "test", 0, "float32") for model in MODELS)
    record = evaluation(uri, two[0], MODELS[0], "ood", {behind: two[1].run_id})
    run = client_of(uri).get_run(record.run_id)
    assert tables_by_images(uri, run) == {}
    record.tag("glow.scored_by", json.dumps({behind: two[1].run_id, own: two[0].run_id}))
    run = client_of(uri).get_run(record.run_id)
    assert tables_by_images(uri, run) == {own.partition("-")[0]: (two[0].run_id, f"scores/{own}.parquet")}


@pytest.mark.parametrize("how", [{"fingerprint": "f2"}, {"bits": 5}, {"seed": 1}])
def test_scores_of_other_images_or_noise_are_not_paired(capsys, uri, how):
    one = training(uri, MODELS[0], "one")
    two = training(uri, MODELS[1], "two", params={"bits": how.get("bits", 8)}, **how)
    assert told(capsys, uri, "one", "two")["nll"] == []
    last = printed(capsys, uri, "one", "two").splitlines()[-1]
    if "bits" in how:
        assert "bits 8 and 5" in last
    else:
        assert f"glowctl nll --model {one.run_id} and glowctl nll --model {two.run_id}" in last


def test_scores_with_more_noises_or_gradients_are_paired_with_plain_ones(capsys, uri):
    training(uri, MODELS[0], "one")
    two = training(uri, MODELS[1], "two", splits=())
    key = key_of(MODELS[1], "f1", 8, "test", 0, "float32", noise_samples=4, gradient_stride=10)
    save_scores(key, labelled(scores_of(MODELS[1]), "mnist", "test"), two)
    assert [each["dataset"] for each in told(capsys, uri, "one", "two")["nll"]] == ["mnist"]


def test_a_table_that_is_gone_is_left_out(capsys, uri, two, tmp_path):
    key = key_of(MODELS[1], "f1", 8, "test", 0, "float32")
    (path,) = tmp_path.rglob(f"{key}.parquet")
    path.write_bytes(b"cut short")
    assert told(capsys, uri, "train 0", "train 1")["nll"] == []


def test_a_registered_model_stands_for_the_run_that_trained_it(capsys, uri, two):
    client = client_of(uri)
    client.create_registered_model("glow-mnist")
    client.create_model_version("glow-mnist", "file:///nowhere", two[1].run_id)
    found = told(capsys, uri, "train 0", "models:/glow-mnist/1")
    assert (found["b"]["run_id"], len(found["nll"])) == (two[1].run_id, 1)


def test_a_run_that_does_not_exist_is_named(capsys, uri, two):
    with pytest.raises(NoSuchRun, match="no run 'nothing'"):
        told(capsys, uri, "train 0", "nothing")


def test_jobs_without_scores_are_compared_without_a_word_on_images(capsys, uri):
    for name, depths in (("one", [8]), ("two", [8, 16])):
        tags = {"glow.job": "ablate", "glow.spec": json.dumps({"depths": depths})}
        Record.start(uri, "glow", name, tags, {}).finish("FINISHED")
    shown = printed(capsys, uri, "one", "two")
    assert ["depths", "8", "8,", "16"] in [line.split() for line in shown.splitlines()]
    assert "packages: not recorded by a and b" in shown
    assert "image" not in shown


def test_the_command(one_process, uri, two, tmp_path):
    done = one_process(tmp_path, "diff", "train 0", "train 1", "--tracking-uri", uri, "--data", "mnist test")
    assert done.returncode == 0, done.stderr
    assert "mnist test: a is better on image" in done.stdout
    done = one_process(tmp_path, "diff", "train 0", "train 1", "--tracking-uri", uri, "--data", "photos")
    assert done.returncode == 2
    assert "--data 'photos'" in done.stderr
