"""Reports of runs that are written here without Ray."""

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

from glowctl.display.displays import PlainLines
from glowctl.display.events import Reported
from glowctl.display.tables import AUROC_NOTE, Cell, Table
from glowctl.report import make
from glowctl.report.compose import seconds_of
from glowctl.report.document import Note, Report, Section, Text, html, markdown
from glowctl.system.process_identity import this_process
from glowctl.tracking.liveness import DRIVER
from glowctl.tracking.record import Record
from glowctl.tracking.runs import find_run, page_of
from glowctl.tracking.store import open_store
from glowctl.tracking.uris import TrackingError
from tests.jobs.reported import NLLS, Store, ood_tables, with_auroc

VOID = {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"}


class Page(HTMLParser):
    """An HTML page: its tags in order, which must be closed as they were opened, its words, images and links."""

    def __init__(self, text):
        super().__init__()
        self.open: list[str] = []
        self.tags, self.images, self.links, self.words = [], [], [], []
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
    events: list[Reported] = []
    report = make(store.uri, experiment, runs, store.folder / output, events.append)
    texts = {kind: Path(getattr(events[0], kind)).read_text() for kind in ("html", "markdown")}
    return SimpleNamespace(report=report, event=events[0], page=Page(texts["html"]), **texts)


def sections_of(made):
    """Return all sections of a report by anchor."""
    return {section.anchor: section for top in made.report.sections for section in top.walk()}


def kinds_of(made):
    """Return the kinds of its sections, which are the last words of their anchors."""
    return {anchor.rpartition("-")[2] for anchor in sections_of(made)}


def blocks_of(made, kind):
    """Return all parts of a report of one kind."""
    return [block for section in sections_of(made).values() for block in section.blocks if isinstance(block, kind)]


def rows_of(made):
    """Return all rows of a report's tables, with their cells as text."""
    rows = [row for table in blocks_of(made, Table) for row in table.rows]
    return [[cell if isinstance(cell, str) else f"{cell.text} {cell.below}" for cell in row] for row in rows]


def row_of(made, *words):
    """Return the first row whose first cell contains these words."""
    return next(row for row in rows_of(made) if all(word in row[0] for word in words))


def says(sentences, pattern):
    """Return whether one of the sentences holds these facts in this order."""
    return any(re.search(pattern, sentence) for sentence in sentences)


def commands_of(made):
    """Return the commands that add what is missing."""
    return [gap.command for gap in made.report.gaps if gap.command]


@pytest.fixture
def store(tmp_path, empty_store):
    return Store(tmp_path / "store", empty_store)


@pytest.fixture(scope="module")
def whole(tmp_path_factory, empty_store):
    """Make a report of an ablation on MNIST and all evaluations of its best model."""
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
        assert f"<title>{whole.made.report.title}</title>" in html
        assert "mnist" in whole.made.report.title
        assert page.tags.count("h1") == 1
        assert len(page.images) == page.tags.count("figcaption") == len(whole.made.report.pictures)
        assert all(image["src"].startswith("data:image/") and len(image["alt"]) > 10 for image in page.images)
        anchors = set(re.findall(r' id="([^"]+)"', html))
        assert {link.removeprefix("#") for link in page.links} <= anchors

    def test_has_every_picture(self, whole):
        names = {picture.name for picture in whole.made.report.pictures}

        kinds = [
            *("nll-by-epoch.svg", "differences.svg", "samples.png", "temperatures.png", "interpolation.png"),
            *("ood-ratio.svg", "classes-mnist.svg", "classes-emnist-letters.svg", "ood-nll.png", "1-nll.png"),
        ]
        assert all(any(name.endswith(kind) for name in names) for kind in kinds)
        assert len(names) == len(whole.made.report.pictures)

    def test_numbers_are_those_recorded(self, whole):
        made, rows = whole.made, rows_of(whole.made)

        mean = np.mean(NLLS["1x1"])
        difference = np.mean(NLLS["1x1"]) - np.mean(NLLS["shuffle"])
        assert ["1x1", f"{mean:.3f}"] in [row[:2] for row in rows]
        assert row_of(made, "permutation", "1x1", "shuffle")[1] == f"{difference:+.3f}"
        assert says(made.report.summary, rf"1x1.* shuffle.* {-difference:.3f} bits/dim")
        assert says(made.report.summary, rf"1x1 s2\b.* {min(NLLS['1x1']):.3f} bits/dim")
        assert ["mnist", "3.456", "3.400 to 3.500", "3.300", "4.400", "2,000", "0"] in rows
        assert says(made.report.summary, r"\b10\b.* 87\.6 %.*emnist-letters.* 100 %.*noise")
        assert "87.65 86.65-88.65" in made.page.text
        assert ["emnist-letters", "1", "0.9123 0.9023-0.9123", "1.0000 0.9900-1.0000"] in rows
        assert ["noise", "1", "-", "1.0000 0.9900-1.0000"] in rows
        texts = [block.text for block in blocks_of(made, Text)]
        assert says(texts, r" 0\.001 grey levels")
        assert says(texts, r"Control passed: .*mnist.* 1 %")

    def test_says_what_it_is_made_of(self, whole):
        text = whole.made.page.text

        runs = [whole.ablation, whole.best, *whole.runs.values()]
        assert all(run.run_id in text for run in runs)
        assert row_of(whole.made, whole.best.run_id)[-4:] == ["0:10", "1,234", "21", "5,678"]
        assert "torch 2.6" in text
        assert "fingerprint" in text
        assert whole.made.event.open_with in text

    def test_what_is_missing_comes_with_a_command(self, whole):
        alone = report_of(whole.store, runs=[whole.runs["nll"].run_id], output="alone")
        gaps = alone.report.gaps

        at = f"--model {whole.best.run_id} --tracking-uri {whole.store.uri}"
        assert f"glowctl ood {at}" in commands_of(alone)
        assert f"glowctl sample --temperatures 0,0.5,0.7,0.9,1 {at}" in commands_of(alone)
        assert sum(whole.best.name in gap.sentence for gap in gaps) == 3
        assert alone.event.missing == [str(gap) for gap in gaps]
        assert "#missing" in alone.page.links
        assert all(command in alone.page.text for command in commands_of(alone))
        assert whole.made.report.gaps == []

    def test_the_markdown_is_whole(self, whole):
        lines = whole.made.markdown.splitlines()

        pictures = re.findall(r"^!\[.+\]\((.+)\)$", whole.made.markdown, re.MULTILINE)
        folder = Path(whole.made.event.markdown).parent
        assert len(pictures) == len(whole.made.report.pictures)
        assert all((folder / picture).stat().st_size for picture in pictures)
        for line, below in itertools.pairwise(lines):
            if line.startswith("|") and below.startswith("|"):
                assert len(re.findall(r"(?<!\\)\|", line)) == len(re.findall(r"(?<!\\)\|", below))
        assert re.search(r"^\| emnist-letters \|.*\| 87\.65 \(86\.65-88\.65\) \|", whole.made.markdown, re.MULTILINE)

    def test_is_a_run_of_its_own(self, whole):
        run = find_run(whole.store.uri, "glow", whole.made.event.run_id)
        client, _ = open_store(whole.store.uri, "glow")

        assert run.info.status == "FINISHED"
        assert run.data.tags["glow.job"] == "report"
        assert all(sentence in run.data.tags["mlflow.note.content"] for sentence in whole.made.report.summary)
        artifacts = {artifact.path for artifact in client.list_artifacts(run.info.run_id)}
        assert artifacts == {"report.html", "report.md", "report-images"}

    def test_a_second_report_is_not_about_the_first(self, whole):
        again = report_of(whole.store, output="again")

        assert whole.made.event.run_id not in again.html
        drawn = [picture.data for picture in again.report.pictures]
        assert drawn == [picture.data for picture in whole.made.report.pictures]

    def test_named_runs_come_with_their_model_alone(self, whole):
        named = report_of(whole.store, runs=[whole.runs["ood"].run_id], output="named")

        assert "ood" in kinds_of(named)
        assert "interpolation" in kinds_of(whole.made) - kinds_of(named)
        assert whole.best.name in sections_of(named)["data-1-model-1"].title
        assert whole.ablation.run_id not in named.html

    def test_named_ablations_come_with_what_is_beneath(self, whole):
        named = report_of(whole.store, runs=[whole.ablation.name], output="beneath")

        assert named.page.text.count("87.65 86.65-88.65") == whole.made.page.text.count("87.65 86.65-88.65") > 0

    def test_lines(self, whole):
        shown = PlainLines().text(whole.made.event)

        assert shown is not None
        assert whole.made.event.html in shown
        assert all(sentence in shown for sentence in whole.made.event.missing)


@pytest.mark.slow
class TestLess:
    def test_a_training_alone(self, store):
        run = store.train("train it", test=1.75)

        made = report_of(store)

        assert says(made.report.summary, r" 1\.750 bits/dim")
        (samples,) = sections_of(made)["data-1-model-1-samples"].blocks
        assert "temperature 0.7" in samples.pictures[0].caption
        assert any(picture.name == "digits-trainings.svg" for picture in made.report.pictures)
        ablate, evaluate = commands_of(made)
        assert ablate.startswith("glowctl ablate --permutations all ")
        assert evaluate.startswith(f"glowctl evaluate --model {run.run_id} ")
        assert "ood" not in kinds_of(made)

    def test_trainings_are_compared_as_an_ablation_is(self, store):
        for permutation, nlls in NLLS.items():
            for seed, test in enumerate(nlls):
                store.train(f"{permutation} {seed}", test=test, permutation=permutation, seed=seed)
        store.train("deeper", test=1.0, depth=3)

        made = report_of(store)

        assert says([block.text for block in blocks_of(made, Text)], r"\b7\b.*\bpermutation and depth\b")
        assert says(made.report.summary, r"1x1.* shuffle.* 0\.217 bits/dim")
        assert "deeper" in sections_of(made)["data-1-model-1"].title

    def test_trainings_of_other_bits_are_not_compared(self, store):
        for bits, nlls in ((8, (1.6, 1.7)), (5, (0.6, 0.7))):
            for depth, test in enumerate(nlls, start=1):
                store.train(f"{bits} bits K{depth}", test=test, depth=depth, bits=bits)

        made = report_of(store)

        nll = sections_of(made)["data-1-nll"]
        texts = [block.text for block in nll.blocks if isinstance(block, Text)]
        assert sum("2 trainings" in text for text in texts) == 2
        assert sum("permutation and depth " in text for text in texts) == 2
        assert says(texts, "^Images with 5 bits")
        assert says(made.report.summary, r"5 bits.* 0\.600 bits/dim")
        assert "8 bits K1" in sections_of(made)["data-1-model-1"].title  # NLLs of 5 bits are lower, but do not compare

    def test_one_seed_has_no_interval(self, store):
        store.ablate("one seed", seeds=1)

        made = report_of(store)

        assert says(made.report.summary, "one seed")
        assert row_of(made, "1x1")[1:4] == ["1.600", "-", "1.600"]
        assert any("--seeds 3" in command for command in commands_of(made))

    def test_a_control_that_failed_is_said(self, store):
        store.evaluate("ood", store.train("train it"), ood_tables("digits", as_expected=False))

        [said] = [block.text for block in blocks_of(report_of(store), Text) if "FAILED" in block.text]
        assert "digits" in said
        assert re.findall(r" 1\.23 % \(0\.23-2\.23\)\D* M=(\d+)", said) == ["1", "10"]

    def test_the_decisions_of_the_recommended_detector_have_a_table(self, store):
        tables = ood_tables("digits")
        ratios = tables["ood.parquet"]
        ratios.loc[(ratios["detector"] == "density") & (ratios["dataset"] == "emnist-letters"), "ratio"] = 0.4321
        store.evaluate("ood", store.train("train it"), tables, more_tags={"glow.recommended": "density"})

        captions = {table.caption for table in blocks_of(report_of(store), Table)}
        assert any("density" in caption for caption in captions)
        assert "43.21" in report_of(store).page.text

    def test_aurocs_have_their_intervals_and_how_to_read_them(self, store):
        store.evaluate("ood", store.train("train it"), ood_tables("digits"))

        made = report_of(store)

        assert "0.9123 (0.9023-0.9123)" in made.markdown
        notes = [table.notes for table in blocks_of(made, Table) if "AUROC" in table.caption]
        assert len(notes) == 2  # of this model, and of all models
        assert all(AUROC_NOTE in of_table for of_table in notes)

    def test_there_is_one_chapter_per_data_set(self, store):
        store.train("one", dataset="digits")
        store.train("two", dataset="fashion-mnist")

        made = report_of(store)

        titles = [section.title for section in made.report.sections[:2]]
        assert ["fashion-mnist" in titles[0], "digits" in titles[1]] == [True, True]
        assert any(sentence.startswith("digits: ") for sentence in made.report.summary)

    @pytest.mark.filterwarnings("ignore::RuntimeWarning:numpy")  # about the infinities in the data
    def test_numbers_that_are_none(self, store):
        store.ablate("bad", nlls={"1x1": (1.6, math.nan), "shuffle": (math.inf, 1.8)}, seeds=2)

        made = report_of(store)

        assert ["1x1", "inf"] in [row[:2] for row in rows_of(made)]
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
        assert seconds_of(find_run(store.uri, "glow", record.run_id)) < 60

        open_store(store.uri, "glow")[0].update_run(record.run_id, status="RUNNING")

        run = find_run(store.uri, "glow", record.run_id)
        assert run.info.end_time is not None
        assert math.isnan(seconds_of(run))

    def test_names_are_only_words(self, store):
        name = "<script>alert(1)</script> | *it* \"'"
        store.evaluate_all(store.train(name))

        made = report_of(store)

        assert "script" not in made.page.tags
        assert name in made.page.text
        assert "<script" not in made.markdown
        assert r"\| \*it\*" in made.markdown


class TestTrainings:
    """Trainings that were not started as one ablation."""

    def test_may_differ_in_settings_that_are_on_or_off(self, store):
        for seed in (0, 1):
            store.train(f"plain {seed}", test=1.7 + seed / 10, seed=seed)
            store.train(f"flipped {seed}", test=1.6 + seed / 5, seed=seed, flip=True)
            store.train(f"classes {seed}", test=1.5 + seed / 6, seed=seed, class_conditional=True)

        made = report_of(store)

        assert any("class conditional yes, no" in " ".join(row) for row in rows_of(made))
        assert any("flip no, yes" in " ".join(row) for row in rows_of(made))
        assert row_of(made, "1x1", "flip True", "class_conditional False")[1] == "1.700"
        assert row_of(made, "flip False - True")[1] == "+0.050"

    @pytest.mark.parametrize("state", ["FAILED", "KILLED", "RUNNING"])
    def test_that_have_not_finished_hide_no_finished_one(self, store, state):
        for test in (1.9, 1.7):
            store.train(f"done {test}", test=test)
        store.train("deeper", test=1.6, depth=3)
        store.train("again", test=math.nan, state=state)

        made = report_of(store)

        assert row_of(made, "1x1 K2")[1] == "1.700"  # of the finished ones, the newest
        assert says([block.text for block in blocks_of(made, Text)], r"\b4 trainings\b.*\bleaves out 2 trainings\b")

    def test_of_other_number_formats_are_no_repeats(self, store):
        for test, formats in ((1.5, {}), (1.6, {"precision": "bf16"}), (1.7, {"gradient_precision": "bf16"})):
            store.train(f"{test}", test=test, **formats)

        made = report_of(store)

        assert says([block.text for block in blocks_of(made, Text)], "precision and gradient precision ")
        assert {row[1] for row in rows_of(made) if row[0].startswith("1x1 ")} == {"1.500", "1.600", "1.700"}

    def test_of_other_test_images_are_not_compared(self, store):
        for size in (16, 8):
            for depth in (2, 3):
                test = size / 16 + depth / 10
                store.train(f"{size} K{depth}", test=test, depth=depth, image_size=size, images=f"of {size}")
        store.train("16 K4", test=1.5, depth=4, image_size=16, images="of 16")

        made = report_of(store)

        texts = [block.text for block in blocks_of(made, Text)]
        images = [row[2:] for row in rows_of(made) if row[0] == "digits test"]
        assert images == [["1x16x16", "of 16"], ["1x8x8", "of 8"]]
        for size, trainings, best in ((16, 3, "1.200"), (8, 2, "0.700")):
            assert says(texts, f"{trainings} trainings .* permutation and depth form")
            assert says(made.report.summary, rf"{size}x{size} pixels: .*\b{size} K2 has.* {best} bits/dim")
        assert says(texts, "2 groups.* different test images")
        assert not says([*texts, *made.report.summary], "image_size|image size form")
        assert "16 K2" in sections_of(made)["data-1-model-1"].title  # chosen among the 3, although its NLL is larger

    def test_that_recorded_no_images_are_told_apart_by_their_settings(self, store):
        for seed in (0, 1):
            store.train(f"all {seed}", test=1.7, seed=seed)
            store.train(f"some {seed}", test=1.6, seed=seed, leave_out="7,8")
            store.train(f"black {seed}", test=1.5, seed=seed, background="black")

        made = report_of(store)

        for images, best in (("all classes, a background of white", 1.7), ("all classes but 7, 8", 1.6)):
            assert says(made.report.summary, f"^Images with {images}.* 2 finished trainings.* {best:.3f} bits/dim")
        assert says(made.report.summary, "^Images with .*black: .* 2 finished trainings.* 1.500 bits/dim")

    def test_of_images_that_changed_have_fingerprints_in_the_report(self, store):
        for images in ("before", "after"):
            store.train(images, images=images)

        made = report_of(store)

        for images in ("before", "after"):
            assert says(made.report.summary, f"^Images with the fingerprint {images}: The only training")

    def test_may_leave_out_classes(self, store):
        for seed, names in enumerate(("7,8", "seven,eight")):
            store.train(f"{seed}", leave_out=names, seed=seed, images="without 7 and 8")

        made = report_of(store)

        assert any("leave out seven, eight, 7, 8" in " ".join(row) for row in rows_of(made))
        assert row_of(made, "1x1", "7, 8")[1] == row_of(made, "1x1", "seven, eight")[1] == "1.700"


class TestGone:
    def test_each_artifact_may_be_gone_or_damaged(self, store):
        runs = store.evaluate_all(store.train("train it"))
        folders = {job: Path(run.artifact_uri.removeprefix("file://")) for job, run in runs.items()}
        gone = {"interpolation.npy": "interpolate", "ood_power.parquet": "ood", "nll.parquet": "nll"}
        for name, job in gone.items():
            (folders[job] / name).unlink()
        (folders["sample"] / "samples-T1.npy").write_bytes(b"not an array")
        (folders["ood"] / "ood_control.parquet").write_bytes(b"not a table")

        made = report_of(store)

        for name, job in (gone | {"samples-T1.npy": "sample", "ood_control.parquet": "ood"}).items():
            assert says([note.text for note in blocks_of(made, Note)], rf"\b{name} .*\b{job} of train it\b")
            assert name in made.page.text
            assert says(made.event.missing, rf"\b{name}\b")
        assert "87.65 86.65-88.65" in made.page.text

    def test_all_artifacts_may_be_gone(self, store):
        store.ablate("ablate it")
        runs = store.evaluate_all(store.train("train it", permutation="shuffle"))
        for folder in (store.folder / "mlartifacts").iterdir():
            shutil.rmtree(folder / "artifacts", ignore_errors=True)
        for artifacts in store.folder.rglob("artifacts"):
            shutil.rmtree(artifacts)

        made = report_of(store)

        assert says(made.report.summary, "1x1.* shuffle")
        assert says([note.text for note in blocks_of(made, Note)], rf"\bood\.parquet\b.*{runs['ood'].run_id}")

    def test_settings_of_another_version(self, store):
        record, _ = store.ablate("ablate it")
        record.tag("glow.spec", json.dumps({"train": {"dataset": "digits"}, "permutations": ["1x1"], "invented": 1}))

        made = report_of(store)

        assert says([note.text for note in blocks_of(made, Note)], r"\bablate it\b.*\binvented\b")


class TestRefused:
    @pytest.mark.parametrize(
        ("experiment", "runs", "named", "code"),
        [
            ("glow", ["train it", "nobody"], "nobody", "run-not-found"),
            ("nothing", None, "nothing", "experiment-not-found"),
            ("empty", None, "empty", "no-runs-to-report"),
            ("glow", ["foreign"], "foreign", "no-runs-to-report"),
        ],
    )
    def test_what_there_is_no_report_of(self, store, experiment, runs, named, code):
        store.train("train it")
        open_store(store.uri, "empty")
        Record.start(store.uri, "glow", "foreign", {}, {}).finish("FINISHED")

        with pytest.raises(TrackingError, match=f"'{named}'") as raised:
            report_of(store, experiment, runs)
        assert raised.value.code == code
        assert raised.value.remedy

    def test_no_store(self, tmp_path):
        with pytest.raises(TrackingError, match=r"none\.db") as raised:
            make(f"sqlite:///{tmp_path}/none.db", "glow", None, tmp_path / "out", print)
        assert raised.value.code == "store-missing"

        assert not (tmp_path / "none.db").exists()


def with_ood_test(store, trained, tested_on, auroc=0.86, training=None):
    """Write a test of a model that was trained on one data set, on another at M = 1 and 5."""
    training = training or store.train(f"train {trained}", dataset=trained)
    tables = ood_tables(trained)
    row = {"detector": "typicality", "dataset": tested_on, **with_auroc(auroc)}
    rows = [row | {"batch_size": 1}, row | {"batch_size": 5, "auroc": 1.0}]
    rows += [row | {"detector": "log_det_1", "batch_size": 1}]
    own = row | {"dataset": trained, "batch_size": 1, "auroc": math.nan}
    tables["ood.parquet"] = pd.DataFrame([own, *rows]).assign(
        ratio=0.5, ratio_low=0.4, ratio_high=0.6, ratio_sd=math.nan
    )
    return store.evaluate("ood", training, tables, dataset=trained, alpha=0.99)


def benchmark_of(made):
    """Return the table of the benchmark."""
    [table] = [block for block in sections_of(made)["benchmark"].blocks if isinstance(block, Table)]
    return table


@pytest.mark.slow
class TestBenchmark:
    def test_both_directions_of_a_pair_are_in_one_table(self, store):
        with_ood_test(store, "cifar10", "svhn")
        with_ood_test(store, "svhn", "cifar10")

        table = benchmark_of(report_of(store))

        assert table.head[3:-1] == ["typicality"]  # no detector of a single level
        assert {row[0]: row[3] for row in table.rows} == dict.fromkeys(
            ["cifar10 → svhn", "svhn → cifar10"], Cell("0.8600", "0.8500-0.8600")
        )

    def test_trainings_that_differ_in_their_seed_have_a_row_with_their_mean(self, store):
        with_ood_test(store, "svhn", "cifar10")
        for seed, auroc in enumerate((0.8, 0.9)):
            training = store.train(f"train s{seed}", dataset="cifar10", seed=seed)
            with_ood_test(store, "cifar10", "svhn", auroc, training)
        table = benchmark_of(report_of(store))
        (mean,) = [row for row in table.rows if "mean over 2 trainings" in str(row[1])]
        assert mean[0] == "cifar10 → svhn"
        assert mean[3] == Cell("0.8500", "0.2147-1.0000")  # t of one degree of freedom is 12.7

    def test_one_pair_needs_no_table_of_all(self, store):
        with_ood_test(store, "cifar10", "svhn")
        assert "benchmark" not in sections_of(report_of(store))

    def test_a_later_test_on_other_data_sets_hides_no_pair(self, store):
        training = store.train("train mnist", dataset="mnist")
        for tested, auroc in (("kmnist", 0.9), ("fashion-mnist", 0.8), ("kmnist", 0.7)):
            with_ood_test(store, "mnist", tested, auroc, training)
        table = benchmark_of(report_of(store))
        assert {(row[0], row[3].text) for row in table.rows} == {
            ("mnist → kmnist", "0.7000"),
            ("mnist → fashion-mnist", "0.8000"),
        }


def test_runs_of_a_server_have_an_address(store):
    run = find_run(store.uri, "glow", store.train("train it").run_id)

    address = page_of("https://me:secret@mlflow.example/base/", run)

    assert address == f"https://mlflow.example/base/#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}"
    assert page_of(store.uri, run) is None


def test_runs_that_have_an_address_are_links():
    table = Table("Runs.", ["run", "job"], [[Cell("a | b", "id", "https://mlflow.example/#/1"), "train"]], left=2)
    report = Report("Title", [], [], [Section("Runs", "runs", [table])])

    assert Page(html(report)).links == ["#runs", "https://mlflow.example/#/1"]
    assert r"| [a \| b](https://mlflow.example/#/1) (id) | train |" in markdown(report)


def test_a_bucket_gets_none(store):
    store.train("train it")
    events: list[Reported] = []

    make(store.uri, "glow", None, "s3://bucket/reports", events.append)

    assert events[0].html.startswith(f"file://{store.folder}/mlartifacts/")
    assert Path(events[0].html.removeprefix("file://")).is_file()
