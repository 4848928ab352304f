"""Reports, of records that are written here without Ray."""

import itertools
import json
import math
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from jobs.display.displays import PlainLines
from jobs.report import costs, make
from jobs.report.benchmark import PUBLISHED, canonical
from jobs.report.blocks import Link, Report, Section, Table
from jobs.report.render import html, markdown
from jobs.system.process_identity import this_process
from jobs.tracking import Record, TrackingError, find_run, open_store, page_of
from jobs.tracking.liveness import DRIVER
from tests.jobs.reported import NLLS, Store, ood_tables

VOID = {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"}


class Page(HTMLParser):
    """What a report says: its tags in order, which must be closed as they were opened, its words and its images."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.images, self.links, self.words = [], [], [], [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        if tag == "img":
            self.images.append(dict(attributes))
        if tag == "a":
            self.links.append(dict(attributes)["href"])
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())  # no-break spaces too


def report_of(store, experiment="glow", runs=None, output="out"):
    events = []
    report = make(store.uri, experiment, runs, store.folder / output, events.append)
    texts = {kind: Path(getattr(events[0], kind)).read_text() for kind in ("html", "markdown")}
    return SimpleNamespace(report=report, event=events[0], page=Page(texts["html"]), **texts)


@pytest.fixture
def store(tmp_path, empty_store):
    return Store(tmp_path / "store", empty_store)


@pytest.fixture(scope="module")
def whole(tmp_path_factory, empty_store):
    """A report of an ablation on MNIST and all evaluations of its best model: the store, the runs, what came out."""
    store = Store(tmp_path_factory.mktemp("whole"), empty_store)
    ablation, trials = store.ablate("ablate it", dataset="mnist", levels=2)
    best = trials[2]
    runs = store.evaluate_all(best, "mnist")
    return SimpleNamespace(store=store, ablation=ablation, best=best, runs=runs, made=report_of(store))


class TestWhole:
    def test_the_html_needs_nothing_else(self, whole):
        html, page = whole.made.html, whole.made.page

        assert not re.search(r"https?:|url\(|@import|<script|<link", html)
        assert html.startswith("<!DOCTYPE html>\n<html lang=")
        assert "<title>Glow on mnist</title>" in html
        assert page.tags.count("h1") == 1
        assert len(page.images) == page.tags.count("figcaption") == len(whole.made.report.pictures)
        assert all(image["src"].startswith("data:image/") and len(image["alt"]) > 10 for image in page.images)
        anchors = set(re.findall(r' id="([^"]+)"', html))
        assert {link.removeprefix("#") for link in page.links} <= anchors

    def test_has_every_picture(self, whole):
        names = {picture.name for picture in whole.made.report.pictures}

        kinds = ("nll-by-epoch.svg", "differences.svg", "samples.png", "temperatures.png", "interpolation.png")
        kinds += ("ood-ratio.svg", "classes-mnist.svg", "classes-emnist-letters.svg", "ood-nll.png", "1-nll.png")
        assert all(any(name.endswith(kind) for name in names) for kind in kinds)
        assert len(names) == len(whole.made.report.pictures)

    def test_numbers_are_those_recorded(self, whole):
        text = whole.made.page.text

        mean = np.mean(NLLS["1x1"])
        difference = np.mean(NLLS["1x1"]) - np.mean(NLLS["shuffle"])
        assert f"1x1 {mean:.3f} " in text
        assert f"permutation 1x1 - shuffle {difference:+.3f} " in text
        assert f"permutation: 1x1 has a lower test NLL than shuffle by {-difference:.3f} bits/dim" in text
        assert f"has a test NLL of {min(NLLS['1x1']):.3f} bits/dim" in text
        assert "mnist 3.456 3.400 to 3.500 3.300 4.400 2,000" in text
        assert "Of batches of 10, the typicality test calls 87.6 % of emnist-letters, 100 % of noise OOD" in text
        assert "87.65 86.65-88.65" in text
        assert "emnist-letters 1 0.9123 1.0000 noise 1 - 1.0000" in text
        assert "off by at most 0.001 grey levels" in text
        assert "Control: test images of mnist itself are called OOD about as often" in text

    def test_says_what_it_is_made_of(self, whole):
        text = whole.made.page.text

        runs = [whole.ablation, whole.best, *whole.runs.values()]
        assert all(run.run_id in text for run in runs)
        assert "0:10 1,234 21 5,678" in text
        assert "torch 2.6" in text
        assert "fingerprint" in text
        assert whole.made.event.open_with in text

    def test_the_course_report_stands_beside_a_model_of_mnist(self, whole):
        text = whole.made.page.text

        assert "M = 1 M = 2 M = 10" in text
        assert (
            "mnist this model 1.23 0.23-2.23 - 1.23 0.23-2.23 course report 1.04 ± 0.54 1.2 ± 0.68 2.4 ± 1.41" in text
        )
        assert "course report 75.73 ± 1.74 91.80 ± 2.04 100" in text
        assert "one model of MNIST" in text
        assert "two repeats of the test" in text
        assert "about 1.13 (1x1)" in text

    def test_what_is_missing_comes_with_a_command(self, whole):
        missing = whole.made.event.missing

        at = f"--model {whole.best.run_id} --tracking-uri {whole.store.uri}"
        sentence = f"{whole.best.name} has not been tested by the course report's own protocol"
        assert f"{sentence}: glowctl ood --protocol report --batch-sizes 1,2,10 {at}" in missing
        assert any("has not been tested on fashion-mnist" in sentence for sentence in missing)
        assert len(missing) == 2
        assert "What is missing" in whole.made.page.text

    def test_the_markdown_is_whole(self, whole):
        lines = whole.made.markdown.splitlines()

        pictures = re.findall(r"^!\[.+\]\((.+)\)$", whole.made.markdown, re.MULTILINE)
        folder = Path(whole.made.event.markdown).parent
        assert len(pictures) == len(whole.made.report.pictures)
        assert all((folder / picture).stat().st_size for picture in pictures)
        for line, below in itertools.pairwise(lines):
            if line.startswith("|") and below.startswith("|"):
                assert len(re.findall(r"(?<!\\)\|", line)) == len(re.findall(r"(?<!\\)\|", below))
        assert "| emnist-letters | this model | 87.65 (86.65-88.65) |" in whole.made.markdown

    def test_is_a_run_of_its_own(self, whole):
        run = find_run(whole.store.uri, "glow", whole.made.event.run_id)
        client, _ = open_store(whole.store.uri, "glow")

        assert run.info.status == "FINISHED"
        assert run.data.tags["glow.job"] == "report"
        assert "1x1 has a lower test NLL" in run.data.tags["mlflow.note.content"]
        artifacts = {artifact.path for artifact in client.list_artifacts(run.info.run_id)}
        assert artifacts == {"report.html", "report.md", "report-images"}

    def test_a_second_report_is_not_about_the_first(self, whole):
        again = report_of(whole.store, output="again")

        assert whole.made.event.run_id not in again.html
        drawn = [picture.data for picture in again.report.pictures]
        assert drawn == [picture.data for picture in whole.made.report.pictures]

    def test_named_runs_come_with_their_model_alone(self, whole):
        named = report_of(whole.store, runs=[whole.runs["ood"].run_id], output="named")

        assert "Out-of-distribution test" in named.page.text
        assert f"Model {whole.best.name}" in named.page.text
        assert "Interpolation" not in named.page.text
        assert whole.ablation.run_id not in named.html

    def test_named_ablations_come_with_what_is_beneath(self, whole):
        named = report_of(whole.store, runs=[whole.ablation.name], output="beneath")

        assert named.page.text.count("87.65 86.65-88.65") == whole.made.page.text.count("87.65 86.65-88.65") > 0

    def test_lines(self, whole):
        shown = PlainLines().text(whole.made.event)

        assert whole.made.event.html in shown
        assert all(sentence in shown for sentence in whole.made.event.missing)


class TestLess:
    def test_a_training_alone(self, store):
        run = store.train("train it", test=1.75)

        made = report_of(store)

        assert "Test NLL 1.750 bits/dim" in made.page.text
        assert "The last samples that the training itself drew" in made.page.text
        assert any(picture.name == "digits-trainings.svg" for picture in made.report.pictures)
        assert f"No evaluation of train it is recorded: glowctl evaluate --model {run.run_id}" in made.event.missing[1]
        assert "glowctl ablate --permutations all" in made.event.missing[0]
        assert "Out-of-distribution" not in made.page.text

    def test_trainings_are_compared_as_an_ablation_is(self, store):
        for permutation, nlls in NLLS.items():
            for seed, test in enumerate(nlls):
                store.train(f"{permutation} {seed}", test=test, permutation=permutation, seed=seed)
        store.train("deeper", test=1.0, depth=3)

        made = report_of(store)

        assert "7 trainings that were not started as one ablation" in made.page.text
        assert "permutation: 1x1 has a lower test NLL than shuffle by 0.217 bits/dim" in made.page.text
        assert "Model deeper" in made.page.text

    def test_trainings_of_other_bits_are_not_compared(self, store):
        for bits, nlls in ((8, (1.6, 1.7)), (5, (0.6, 0.7))):
            for depth, test in enumerate(nlls, start=1):
                store.train(f"{bits} bits K{depth}", test=test, depth=depth, bits=bits)

        made = report_of(store)

        assert "NLLs of images of different bits cannot be compared" in made.page.text
        assert made.page.text.count("2 trainings that were not started as one ablation") == 2
        assert made.page.text.count("configurations are told apart by permutation, depth.") == 2
        assert "Images of 5 bits: The best of 2 finished trainings by validation" in made.page.text
        assert "Model 8 bits K1" in made.page.text  # lower than that of 5 bits it cannot be

    def test_a_setting_that_older_records_lack_is_no_difference(self, store):
        store.train("new", test=1.6)
        older = store.train("older", test=1.7, depth=3)
        spec = json.loads(find_run(store.uri, "glow", older.run_id).data.tags["glow.spec"])
        older.tag("glow.spec", json.dumps({name: spec[name] for name in spec if name != "bits"}))

        made = report_of(store)

        assert "configurations are told apart by permutation, depth." in made.page.text

    def test_one_seed_has_no_interval(self, store):
        store.ablate("one seed", seeds=1)

        made = report_of(store)

        assert "one seed, so the data do not decide" in made.page.text
        assert "1x1 1.600 - 1.600" in made.page.text
        assert any("one seed a configuration, so no intervals" in sentence for sentence in made.event.missing)

    def test_the_course_report_is_not_beside_other_data(self, store):
        store.evaluate_all(store.train("train it"))

        made = report_of(store)

        assert "87.65" in made.page.text
        assert "course report" not in made.page.text
        assert "75.73" not in made.html + made.markdown

    def test_a_control_that_failed_is_said(self, store):
        store.evaluate("ood", store.train("train it"), ood_tables("digits", as_expected=False))

        assert "Control FAILED: test images of digits itself are called OOD at 1.23 %" in report_of(store).page.text

    def test_a_chapter_a_data_set(self, store):
        store.train("one", dataset="digits")
        store.train("two", dataset="fashion-mnist")

        made = report_of(store)

        assert [section.title for section in made.report.sections[:2]] == [
            "Trained on fashion-mnist",
            "Trained on digits",
        ]
        assert any(sentence.startswith("digits: ") for sentence in made.report.summary)

    @pytest.mark.filterwarnings("ignore::RuntimeWarning:numpy")  # of infinities, which it is about
    def test_numbers_that_are_none(self, store):
        store.ablate("bad", nlls={"1x1": (1.6, math.nan), "shuffle": (math.inf, 1.8)}, seeds=2)

        made = report_of(store)

        assert "1x1 inf" in made.page.text
        assert "nan" not in made.page.text.lower()

    def test_a_training_whose_process_died_is_failed(self, store):
        record = store.train("train it")
        place, pid, began = this_process().split(" ")
        record.tag(DRIVER, f"{place} {pid} {int(began) - 1}")
        open_store(store.uri, "glow", look=False)[0].update_run(record.run_id, status="RUNNING")

        assert "train (failed)" in report_of(store).page.text

    def test_a_training_that_goes_on_has_not_taken_the_time_to_its_first_end(self, store):
        record = Record.start(store.uri, "glow", "train it", {"glow.job": "train"}, {})
        record.finish("KILLED")
        assert costs.seconds_of(find_run(store.uri, "glow", record.run_id)) < 60

        open_store(store.uri, "glow")[0].update_run(record.run_id, status="RUNNING")

        run = find_run(store.uri, "glow", record.run_id)
        assert run.info.end_time is not None
        assert math.isnan(costs.seconds_of(run))

    def test_names_are_only_words(self, store):
        name = "<script>alert(1)</script> | *it* \"'"
        store.evaluate_all(store.train(name))

        made = report_of(store)

        assert "script" not in made.page.tags
        assert f"Model {name}" in made.page.text
        assert "<script" not in made.markdown
        assert r"\| \*it\*" in made.markdown


class TestGone:
    def test_each_artifact_may_be_gone_or_damaged(self, store):
        runs = store.evaluate_all(store.train("train it"))
        folders = {job: Path(run.artifact_uri.removeprefix("file://")) for job, run in runs.items()}
        for job, name in (("interpolate", "interpolation.npy"), ("ood", "ood_power.parquet"), ("nll", "nll.parquet")):
            (folders[job] / name).unlink()
        (folders["sample"] / "samples-T1.npy").write_bytes(b"not an array")
        (folders["ood"] / "ood_control.parquet").write_bytes(b"not a table")

        made = report_of(store)

        for name in ("interpolation.npy", "ood_power.parquet", "nll.parquet", "samples-T1.npy", "ood_control.parquet"):
            assert f"The artifact {name} of run " in made.page.text
            assert any(f"The artifact {name} of run " in sentence for sentence in made.event.missing)
        assert "87.65 86.65-88.65" in made.page.text

    def test_all_artifacts_may_be_gone(self, store):
        store.ablate("ablate it")
        store.evaluate_all(store.train("train it", permutation="shuffle"))
        for folder in (store.folder / "mlartifacts").iterdir():
            shutil.rmtree(folder / "artifacts", ignore_errors=True)
        for artifacts in store.folder.rglob("artifacts"):
            shutil.rmtree(artifacts)

        made = report_of(store)

        assert "permutation: 1x1 has a lower test NLL" in made.page.text
        assert "The artifact ood.parquet of run ood of train it" in made.page.text

    def test_settings_of_another_version(self, store):
        record, _ = store.ablate("ablate it")
        record.tag("glow.spec", json.dumps({"train": {"dataset": "digits"}, "permutations": ["1x1"], "invented": 1}))

        assert "The settings of ablation ablate it cannot be read" in report_of(store).page.text


class TestRefused:
    def test_an_unknown_run(self, store):
        store.train("train it")

        with pytest.raises(TrackingError, match="no run 'nobody' in experiment 'glow'"):
            report_of(store, runs=["train it", "nobody"])

    def test_an_unknown_experiment(self, store):
        with pytest.raises(TrackingError, match="there is no experiment 'nothing'"):
            report_of(store, "nothing")

    def test_an_empty_experiment(self, store):
        open_store(store.uri, "empty")

        with pytest.raises(TrackingError, match="experiment 'empty' has no runs to report on: train with glowctl"):
            report_of(store, "empty")

    def test_no_store(self, tmp_path):
        with pytest.raises(TrackingError, match="there is no MLflow store"):
            make(f"sqlite:///{tmp_path}/none.db", "glow", None, tmp_path / "out", print)

        assert not (tmp_path / "none.db").exists()


def with_ood_test(store, trained, tested_on, **tags):
    """A model of `trained` with an OOD test on a data set of this label."""
    training = store.train(f"train {trained}", dataset=trained)
    tables = ood_tables(trained)
    tables["ood_detectors.parquet"] = pd.DataFrame(
        {"dataset": [tested_on] * 2, "batch_size": [1, 5], "typicality": [0.9123, 1.0], "neighbours": [0.98, 1.0]}
    )
    return store.evaluate("ood", training, tables, dataset=trained, alpha=0.99, **tags)


class TestBenchmark:
    def test_both_directions_of_a_pair_stand_in_one_table_beside_what_is_published(self, store):
        with_ood_test(store, "cifar10", "arrays-svhn-test.npz")
        with_ood_test(store, "svhn", "cifar10")
        text = report_of(store).page.text
        assert "Out-of-distribution benchmark" in text
        for cell in ("cifar10 → svhn", "svhn → cifar10", "0.912", "0.980", "0.946", "arXiv 2605.22496"):
            assert cell in text

    def test_one_pair_needs_no_table_of_all(self, store):
        with_ood_test(store, "cifar10", "svhn")
        assert "Out-of-distribution benchmark" not in report_of(store).page.text

    def test_pairs_that_nobody_published_have_no_second_table(self, store):
        with_ood_test(store, "digits", "photos")
        with_ood_test(store, "digits", "kmnist")
        with_ood_test(store, "mnist", "kmnist")
        text = report_of(store).page.text
        assert "Out-of-distribution benchmark" in text
        assert "What others published" not in text


@pytest.mark.parametrize(
    ("label", "name"),
    [
        ("arrays-svhn-test.npz", "svhn"),
        ("arrays-cifar10", "cifar10"),
        ("packed-cats", "cats"),
        ("fashion-mnist", "fashion-mnist"),
        ("mnist-left-out", "mnist-left-out"),
    ],
)
def test_a_label_is_brought_to_the_name_of_its_data_set(label, name):
    assert canonical(label) == name


def test_every_published_figure_has_a_source_and_is_a_probability():
    assert all(each.source and 0 <= each.auroc <= 1 and each.trained != each.tested for each in PUBLISHED)


def test_runs_of_a_server_have_an_address(store):
    run = find_run(store.uri, "glow", store.train("train it").run_id)

    address = page_of("https://me:secret@mlflow.example/base/", run)

    assert address == f"https://mlflow.example/base/#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}"
    assert page_of(store.uri, run) is None


def test_runs_that_have_an_address_are_led_to():
    table = Table("Runs.", ["run", "job"], [[Link("a | b", "https://mlflow.example/#/1", "id"), "train"]], left=2)
    report = Report("Title", [], [], [Section("Runs", "runs", [table])])

    assert Page(html(report)).links == ["#runs", "https://mlflow.example/#/1"]
    assert r"| [a \| b](https://mlflow.example/#/1) (id) | train |" in markdown(report)


def test_a_bucket_gets_none(store):
    store.train("train it")
    events = []

    make(store.uri, "glow", None, "s3://bucket/reports", events.append)

    assert events[0].html.startswith(f"file://{store.folder}/mlartifacts/")
    assert Path(events[0].html.removeprefix("file://")).is_file()
