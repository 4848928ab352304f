"""The summary of an ablation is made from what MLflow has of its trials; the tests write these runs themselves."""

import io
import json
import math
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from scipy import stats

from glow import Glow, save_checkpoint, score
from glow.ood import Calibration
from glowctl.ablation.summary import Tables, comparison_figures, summarize_ablation
from glowctl.display.displays import JsonLines
from glowctl.evaluation.find_model import find_model
from glowctl.run_labels import registered_name
from glowctl.specs.ablation import make_ablate_spec
from glowctl.specs.training import make_train_spec
from glowctl.tracking import tag_names
from glowctl.tracking.models import save_model
from glowctl.tracking.record import Record
from glowctl.tracking.runs import find_run
from glowctl.tracking.store import open_store

EPOCHS = 2
WORSE = 0.5  # by how much the NLLs of the first epoch are higher than those of the last one

# (permutation, seed) -> the lowest NLL of the validation images, and the NLL of the test set under the same model
NLLS = {
    ("1x1", 0): (1.52, 1.60),
    ("1x1", 1): (1.49, 1.63),
    ("1x1", 2): (1.55, 1.58),
    ("shuffle", 0): (1.70, 1.81),
    ("shuffle", 1): (1.75, 1.86),
    ("shuffle", 2): (1.72, 1.80),
}
BEST = ("1x1", 1)  # by validation, and not by the test set


@pytest.fixture(scope="module")
def uri(tmp_path_factory):
    return f"sqlite:///{tmp_path_factory.mktemp('store')}/mlflow.db"


def ablation_spec(uri, output, **values):
    common = {"epochs": EPOCHS, "depth": 1, "width": 4, "output": str(output), "tracking_uri": uri}
    return make_ablate_spec("smoke", common | values)


def start_ablation(uri, spec, images="images"):
    """Start a run as `glowctl ablate` does; `images` stands for the fingerprint of the validation images."""
    tags = {"glow.job": "ablate", "glow.dataset": spec.train.dataset, "glow.spec": spec.to_json()}
    record = Record.start(uri, spec.train.experiment, "ablate digits", tags, {})
    record.dataset((1, 1, 8, 8), f"{spec.train.dataset} validation", images, "validation", spec.train.dataset)
    return record


def start_trial(uri, parent, spec, values):
    trial = spec.trial_spec(values)
    tags = {
        "glow.job": "train",
        "glow.trial": spec.label(values),
        "glow.spec": json.dumps(trial.model_dump()),
        "mlflow.parentRunId": parent.run_id,
    }
    return Record.start(uri, trial.experiment, spec.label(values), tags, {})


def finish_trial(record, validation, test, seconds=10.0):
    for epoch in range(1, EPOCHS + 1):
        worse = WORSE * (EPOCHS - epoch)
        nlls = {"validation/bits_per_dim": validation + worse, "test/bits_per_dim_by_epoch": test + worse}
        record.metrics(nlls, epoch)
    record.metrics(
        {
            "validation/best_bits_per_dim": validation,
            "test/bits_per_dim": test,
            "best_epoch": EPOCHS,
            "images_per_second_median": 100.0,
            "parameters": 1234,
            "gpu_seconds": 0.0,
            "core_seconds": seconds,
        },
        EPOCHS,
    )
    record.finish("FINISHED")


def saved_model(spec, folder):
    """Save an MLflow model of an untrained Glow."""
    model = Glow(spec.glow_config((1, 8, 8), num_classes=0))
    images = torch.randint(256, (16, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    model.initialize(images)
    table = score(model, images)
    scores = Calibration.of(table, table, table)
    save_model(folder / "model", save_checkpoint(model, folder / "checkpoint"), scores, images[:2].numpy(), {})
    return folder / "model"


@pytest.fixture(scope="module")
def any_model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("any")
    return saved_model(make_train_spec("smoke", {"depth": 1, "width": 4}), folder)


def register_model(record, folder, dataset="digits", **tags):
    record.model(folder, registered_name(dataset), tags)


@pytest.fixture(scope="module")
def whole(uri, tmp_path_factory, any_model):
    """An ablation with all trials finished: its record, its spec, the runs of its trials, its summary."""
    output = tmp_path_factory.mktemp("whole")
    spec = ablation_spec(uri, output, permutations="1x1,shuffle", seeds=3)
    parent = start_ablation(uri, spec)
    runs = {}
    for values in spec.trials():
        key = (values["permutation"], values["seed"])
        record = start_trial(uri, parent, spec, values)
        own = saved_model(spec.trial_spec(values), output / record.run_id) if key == BEST else any_model
        register_model(record, own)
        finish_trial(record, *NLLS[key], seconds=10.0 + values["seed"])
        runs[key] = record.run_id
    return (
        parent,
        spec,
        runs,
        summarize_ablation(uri, parent, spec, f"{spec.train.output}/{parent.run_id}", names_champion=True),
    )


def nlls_of(permutation):
    return [test for (name, _), (_, test) in NLLS.items() if name == permutation]


def interval(values):
    return stats.t.interval(0.95, len(values) - 1, sum(values) / len(values), stats.sem(values))


@pytest.mark.parametrize("row", [0, 1])
def test_a_configuration_has_its_mean_and_interval_over_seeds(whole, row):
    found = whole[-1].configurations[row]
    nlls = nlls_of(("1x1", "shuffle")[row])
    low, high = interval(nlls)
    assert found == {
        "permutation": ("1x1", "shuffle")[row],
        "seeds": 3,
        "unfinished": 0,
        "bits_per_dim": pytest.approx(sum(nlls) / 3),
        "bits_per_dim_low": pytest.approx(low),
        "bits_per_dim_high": pytest.approx(high),
        "best": min(nlls),
        "validation_bits_per_dim": pytest.approx(((1.52 + 1.49 + 1.55) / 3, (1.70 + 1.75 + 1.72) / 3)[row]),
        "images_per_second": 100,
        "parameters": 1234,
        "gpu_seconds": 0,
        "core_seconds": 11,
    }


def test_a_difference_is_paired_by_seed(whole):
    [found] = whole[-1].differences
    differences = [a - b for a, b in zip(nlls_of("1x1"), nlls_of("shuffle"), strict=True)]
    low, high = interval(differences)
    assert (found["a"], found["b"], found["seeds"]) == ("1x1", "shuffle", 3)
    assert [found["difference"], found["low"], found["high"]] == pytest.approx([sum(differences) / 3, low, high])
    assert found["p"] == pytest.approx(stats.ttest_1samp(differences, 0).pvalue)
    (conclusion,) = whole[-1].conclusions
    assert conclusion.index("1x1") < conclusion.index("shuffle")  # the better one comes first
    assert f"{-found['difference']:.3f}" in conclusion


def test_the_champion_is_the_best_by_validation_and_can_be_loaded(uri, whole):
    parent, _, runs, summary = whole
    assert summary.best["run_id"] == runs[BEST] == summary.champion["run_id"]
    assert summary.best["test_bits_per_dim"] > min(nlls_of("1x1"))
    found = find_model("models:/glow-digits@champion", uri, "glow")
    assert found.training is not None
    assert (found.run_id, found.training.seed, found.config.seed) == (runs[BEST], BEST[1], BEST[1])
    assert found.digest == find_model(runs[BEST], uri, "glow").digest
    run = find_run(uri, "glow", parent.run_id)
    assert run.data.tags["glow.champion"] == runs[BEST]
    assert (run.data.metrics["validation/best_bits_per_dim"], run.data.metrics["test/bits_per_dim"]) == NLLS[BEST]


def test_the_files_hold_the_same_numbers(whole):
    _, _, runs, summary = whole
    folder = Path(summary.place)
    configurations = pd.read_csv(folder / "configurations.csv").to_dict("records")
    assert configurations == [pytest.approx(row) for row in summary.configurations]
    differences = pd.read_csv(folder / "differences.csv").to_dict("records")
    assert differences == [pytest.approx(row) for row in summary.differences]
    trials = pd.read_csv(folder / "trials.csv").set_index(["permutation", "seed"])
    nlls = trials[["validation_bits_per_dim", "test_bits_per_dim"]]
    assert dict(zip(nlls.index, nlls.itertuples(index=False, name=None), strict=True)) == NLLS
    assert trials["run_id"].to_dict() == runs
    curves = pd.read_csv(folder / "curves.csv").set_index(["name", "seed", "epoch"])
    assert len(curves) == len(NLLS) * EPOCHS
    told = curves.xs(("shuffle", 1, 1))
    assert (told["validation_bits_per_dim"], told["test_bits_per_dim"]) == (1.75 + WORSE, 1.86 + WORSE)


def test_files_are_in_the_output_folder_and_in_mlflow(uri, whole):
    parent, spec, _, summary = whole
    assert Path(summary.place) == Path(spec.train.output, parent.run_id, "summary")
    names = {f"{table}.csv" for table in ("trials", "configurations", "differences", "curves")}
    names |= {"summary.md", "nll_by_epoch.png", "differences.png"}
    assert {path.name for path in Path(summary.place).iterdir()} == names
    client, _ = open_store(uri, "glow")
    tables = {"trials.json", "configurations.json", "differences.json"}
    assert {entry.path for entry in client.list_artifacts(parent.run_id)} == names | tables


def test_the_documents_contain_the_summary(uri, whole):
    parent, _, runs, summary = whole
    text = Path(summary.place, "summary.md").read_text()
    described = find_run(uri, "glow", parent.run_id).data.tags["mlflow.note.content"]
    assert text.removeprefix(f"# {summary.run}\n\n").strip() in described
    result = next(line for line in described.splitlines() if line.startswith("**Result:** "))
    for fact in ("6 of 6 trials", "1x1 s1", "1.630 bits/dim"):
        assert fact in result
    assert f"glowctl ablate --spec runs:/{parent.run_id}/spec.json" in described
    for part in ("6 of 6 trials", summary.conclusions[0], runs[BEST], "models:/glow-digits@champion"):
        assert part in text


def test_a_summary_is_valid_json(whole):
    out = io.StringIO()
    JsonLines(out).show(whole[-1])
    event = json.loads(out.getvalue(), parse_constant=pytest.fail)
    assert event["champion_uri"] == "models:/glow-digits@champion"
    assert event["configurations"][1]["seeds"] == 3


def test_to_summarise_again_changes_nothing(uri, whole):
    parent, spec, _, summary = whole
    assert (summary.trials, summary.finished, summary.unfinished) == (6, 6, [])
    client, _ = open_store(uri, "glow")
    before = client.search_model_versions("name = 'glow-digits'")
    again = summarize_ablation(uri, parent, spec, f"{spec.train.output}/{parent.run_id}")
    assert again == replace(summary, champion=summary.champion | {"new": False})
    assert [v.version for v in client.search_model_versions("name = 'glow-digits'")] == [v.version for v in before]
    table = Path(client.download_artifacts(parent.run_id, "configurations.json"))
    assert len(json.loads(table.read_text())["data"]) == 2  # the rows are not appended


@pytest.mark.slow
def test_a_product_of_depths_and_widths_is_drawn_as_one(uri, tmp_path):
    spec = ablation_spec(uri, tmp_path, permutations="1x1,shuffle", depths="1,2", widths="4,8", seeds=1)
    parent = start_ablation(uri, spec)
    for number, values in enumerate(spec.trials()):
        finish_trial(start_trial(uri, parent, spec, values), 2 + number / 10, 2.1 + number / 10)
    summary = summarize_ablation(uri, parent, spec, f"{spec.train.output}/{parent.run_id}")
    drawn = {path.name for path in Path(summary.place).glob("*.png")}
    assert drawn == {"nll_by_epoch.png", "differences.png", "depth_width.png", "configurations.png"}


def test_kinds_of_coupling_are_compared_if_scales_are_named_too(uri, tmp_path):
    spec = ablation_spec(uri, tmp_path, couplings="affine,additive", scales="bounded", seeds=2)
    parent = start_ablation(uri, spec)
    for number, values in enumerate(spec.trials()):
        finish_trial(start_trial(uri, parent, spec, values), 2 + number / 10, 2 + number / 10)
    (row,) = summarize_ablation(uri, parent, spec, f"{spec.train.output}/{parent.run_id}").differences
    assert (row["factor"], row["seeds"]) == ("coupling", 2)


def test_many_configurations_are_drawn_as_the_best_of_each_value_of_the_first_axis_that_varies():
    product = [("1x1", depth, width) for depth in (2, 4, 8, 16) for width in (8, 16, 32)]
    factors = ["permutation", "depth", "width"]
    told = pd.DataFrame(product, columns=factors).assign(seed=0, bits_per_dim=range(len(product)))
    names = [f"K{depth} W{width}" for _, depth, width in product]
    curves = told.rename(columns={"bits_per_dim": "test_bits_per_dim"}).assign(name=names, epoch=1)
    tables = Tables(told, told, pd.DataFrame({"difference": []}), curves)
    name, figure = next(comparison_figures(tables, factors, "digits", seeds=1))
    drawn = [text.get_text().split(" (")[0] for text in figure.legends[0].get_texts()]
    assert (name, drawn) == ("nll_by_epoch", ["K2 W8", "K4 W8", "K8 W8", "K16 W8"])


def end(record, how):
    if how == "failed":
        record.tag("glow.error", "a worker died")
        record.finish("FAILED")
    elif how == "stopped":
        record.tag("glow.stopped", "asha after epoch 1")
        record.finish("KILLED")
    elif how == "killed":
        record.finish("KILLED")


def test_trials_that_did_not_finish_are_named_and_do_not_count(uri, tmp_path):
    spec = ablation_spec(uri, tmp_path, permutations="1x1,shuffle", seeds=7)
    parent = start_ablation(uri, spec)
    ends = {2: "failed", 3: "stopped", 4: "killed", 5: "running", 6: "waiting"}
    for values in spec.trials():
        permutation, seed = values["permutation"], values["seed"]
        if permutation == "1x1" or seed < 2:
            finish_trial(start_trial(uri, parent, spec, values), *NLLS[permutation, seed if seed < 3 else 0])
        elif ends[seed] != "waiting":
            record = start_trial(uri, parent, spec, values)
            record.metrics({"validation/bits_per_dim": 0.5, "test/bits_per_dim_by_epoch": 0.5}, 1)
            end(record, ends[seed])
    summary = summarize_ablation(uri, parent, spec, f"{spec.train.output}/{parent.run_id}")
    assert (summary.trials, summary.finished) == (14, 9)
    for facts in (
        ["1 trial ", "a worker died", "shuffle", "seed 2"],
        ["1 trial ", "asha after epoch 1", "shuffle", "seed 3"],
        ["3 trials ", "1 killed", "1 running", "1 waiting"],
    ):
        assert any(all(fact in sentence for fact in facts) for sentence in summary.unfinished), facts
    one, shuffle = summary.configurations
    nlls = nlls_of("shuffle")[:2]
    assert (one["seeds"], one["unfinished"], shuffle["seeds"], shuffle["unfinished"]) == (7, 0, 2, 5)
    found = [shuffle[f"bits_per_dim{end}"] for end in ("", "_low", "_high")]
    assert found == pytest.approx([sum(nlls) / 2, *interval(nlls)])
    assert summary.best is not None
    assert summary.best["trial"] == "1x1 s1"


def test_an_ablation_without_finished_trials_has_no_champion(uri, tmp_path):
    spec = ablation_spec(uri, tmp_path, seeds=2)
    parent = start_ablation(uri, spec)
    for values in spec.trials():
        end(start_trial(uri, parent, spec, values), "failed")
    summary = summarize_ablation(uri, parent, spec, f"{spec.train.output}/{parent.run_id}")
    assert (summary.finished, summary.best, summary.champion) == (0, None, None)
    (sentence,) = summary.unfinished
    for fact in ("2 trials ", "a worker died", "1x1", "seeds 0, 1"):
        assert fact in sentence
    assert math.isnan(summary.configurations[0]["bits_per_dim"])
    assert "glow.champion" not in find_run(uri, "glow", parent.run_id).data.tags


def ablation_of_one(uri, any_model, spec, validation, images):
    """Make an ablation of one trial; return the id of the trial's run and the summary."""
    parent = start_ablation(uri, spec, images)
    trial = start_trial(uri, parent, spec, {"seed": 0})
    tags = {tag_names.SCORE: str(validation), tag_names.IMAGES: images}
    register_model(trial, any_model, spec.train.dataset, **tags)
    finish_trial(trial, validation, validation)
    return trial.run_id, summarize_ablation(
        uri, parent, spec, f"{spec.train.output}/{parent.run_id}", names_champion=True
    )


def test_to_summarize_an_older_ablation_moves_no_alias(uri, tmp_path, any_model):
    spec = ablation_spec(uri, tmp_path, dataset=f"folder:{tmp_path}", seeds=1)
    parent = start_ablation(uri, spec, "its images")
    trial = start_trial(uri, parent, spec, {"seed": 0})
    register_model(trial, any_model, spec.train.dataset, **{tag_names.SCORE: "2.0", tag_names.IMAGES: "its images"})
    finish_trial(trial, 2.0, 2.0)
    newer, _ = ablation_of_one(uri, any_model, spec, 2.5, "other images")
    summary = summarize_ablation(uri, parent, spec, f"{spec.train.output}/{parent.run_id}")
    assert summary.best is not None
    assert summary.champion is not None
    assert (summary.best["run_id"], summary.champion["run_id"]) == (trial.run_id, newer)
    client, _ = open_store(uri, "glow")
    assert client.get_model_version_by_alias(f"glow-folder-{tmp_path.name}", "champion").run_id == newer


@pytest.mark.parametrize(
    ("validation", "images", "crowned"),
    [
        pytest.param(2.5, "images", False, id="worse"),
        pytest.param(1.5, "images", True, id="better", marks=pytest.mark.slow),
        pytest.param(2.5, "others", True, id="worse on other images", marks=pytest.mark.slow),
    ],
)
def test_a_later_ablation_takes_the_alias_unless_the_champion_was_better(
    uri, tmp_path, any_model, validation, images, crowned
):
    spec = ablation_spec(uri, tmp_path, dataset=f"folder:{tmp_path}", seeds=1)
    name = f"glow-folder-{tmp_path.name}"
    first, _ = ablation_of_one(uri, any_model, spec, 2.0, "images")
    second, summary = ablation_of_one(uri, any_model, spec, validation, images)
    client, _ = open_store(uri, "glow")
    champion = second if crowned else first
    assert (summary.champion["new"], summary.champion["run_id"], summary.best["run_id"]) == (crowned, champion, second)
    assert client.get_model_version_by_alias(name, "champion").run_id == champion
    assert len(client.search_model_versions(f"name = '{name}'")) == 2
