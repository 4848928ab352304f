"""What a user sees of `glowctl demo` in MLflow's UI, in a browser that has never been there."""

import re

import pytest

from jobs.tracking.runs import json_table, registered_models

expect = pytest.importorskip("playwright.sync_api", reason="needs playwright").expect

pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]

TEST, BY_EPOCH = "test/bits_per_dim", "test/bits_per_dim_by_epoch"


def words(markdown: str) -> str:
    """The first words of a description, as far as they are text alone."""
    return re.split(r"[*`\[\]|#\n(]", markdown.lstrip("#*- "), maxsplit=1)[0].strip()


def test_the_address_that_is_printed_shows_runs_with_their_results(ui, landing, record):
    ui.page.goto(landing)
    ui.wait_for_runs()
    expect(ui.page.get_by_role("heading", name="Runs")).to_be_visible()
    expect(ui.page.get_by_role("link", name="glow").first).to_be_visible()
    expect(ui.page.get_by_text("Traces and Sessions")).to_have_count(0)  # of the view for language models
    expect(ui.run_link(record.ablation.info.run_id)).to_have_text(record.ablation.info.run_name)
    for column in (TEST, "validation/best_bits_per_dim", "permutation"):
        expect(ui.column(column).last).to_be_visible()
    best = str(record.ablation.data.metrics[TEST])[:5]  # cut, not rounded: the page shows more digits
    expect(ui.cells(f"metrics.`{TEST}`").first).to_contain_text(best)


def test_the_experiment_is_listed_and_described(ui, record):
    from jobs.tracking.store import client_of

    described = client_of(record.uri).get_experiment(record.experiment_id).tags.get("mlflow.note.content", "")
    assert described, "the store has no description of the experiment"
    ui.open("experiments")
    expect(ui.page.get_by_role("link", name="glow", exact=True)).to_be_visible()
    ui.without_assistant()
    ui.open_runs(record.experiment_id)
    expect(ui.page.get_by_text(words(described)).first).to_be_visible()


def test_trials_are_beneath_their_ablation_and_evaluations_beneath_their_model(ui, record):
    ui.without_assistant()
    ui.open_runs(record.experiment_id)
    assert len(record.trials) == 9
    for trial in record.trials:
        expect(ui.run_link(trial.info.run_id)).to_have_count(0)
    ui.expand(record.ablation.info.run_id)
    for trial in record.trials:
        expect(ui.run_link(trial.info.run_id)).to_have_text(trial.info.run_name)
    ui.expand(record.best.info.run_id)
    for job in ("ood", "interpolate"):
        expect(ui.run_link(record.by_job[job].info.run_id)).to_have_text(record.by_job[job].info.run_name)
    values = ui.cells("params.`permutation`").all_inner_texts()
    assert {"1x1", "shuffle", "reverse"} <= set(values)


def test_charts_draw_the_trials_against_the_epoch(ui, record):
    ui.without_assistant()
    ui.open_charts(record.experiment_id)
    ui.expand(record.ablation.info.run_id)
    expect(ui.page.get_by_role("heading", name=BY_EPOCH).first).to_be_visible()
    expect(ui.lines().nth(len(record.trials) - 1)).to_be_attached()  # a line a trial
    expect(ui.lines().first).to_be_visible()


def test_a_run_has_a_description_and_curves(ui, record):
    described = record.best.data.tags["mlflow.note.content"]
    ui.without_assistant()
    ui.open_run(record.experiment_id, record.best.info.run_id)
    expect(ui.page.get_by_role("heading", name=record.best.info.run_name)).to_be_visible()
    expect(ui.page.get_by_text(words(described)).first).to_be_visible()
    expect(ui.page.get_by_text(TEST, exact=True).first).to_be_visible()
    ui.open_run(record.experiment_id, record.best.info.run_id, "model-metrics")
    expect(ui.page.get_by_text(f"({BY_EPOCH})").first).to_be_visible()
    expect(ui.lines().first).to_be_visible()


def test_a_figure_is_drawn(ui, record):
    ui.without_assistant()
    ui.open_artifact(record.experiment_id, record.by_job["ood"].info.run_id, "ood_ratio.png")
    assert ui.image_width() > 100


def test_the_ood_table_is_a_table(ui, record):
    run_id = record.by_job["ood"].info.run_id
    recorded = json_table(record.uri, run_id, "ood_ratios.json")
    assert recorded is not None
    columns, rows = recorded
    ui.without_assistant()
    ui.open_artifact(record.experiment_id, run_id, "ood_ratios.json")
    table = ui.page.get_by_role("table")
    for cell in (*columns[:2], *(cell for row in rows for cell in row[:2])):
        expect(table.get_by_text(cell, exact=True).first).to_be_visible()


def test_the_champion_is_in_the_registry(ui, record):
    known = {v["version"]: v for trial in record.trials for v in registered_models(record.uri, trial.info.run_id)}
    champion = next(version for version in known.values() if "champion" in version["aliases"])
    assert champion["name"] == "glow-digits"
    ui.without_assistant()
    ui.open("models")
    expect(ui.page.get_by_role("link", name=champion["name"]).first).to_be_visible()
    ui.open(f"models/{champion['name']}")  # a dialog about stages of models lies over the list, the first time
    expect(ui.page.get_by_role("heading", name=champion["name"])).to_be_visible()
    version = ui.page.get_by_role("link", name=f"Version {champion['version']}", exact=True)
    row = ui.page.get_by_role("row").filter(has=version)
    expect(row.get_by_text("champion")).to_be_visible()
