"""What a user sees of `glowctl demo` in MLflow's UI, in a browser that has never been there."""

import pytest

from glowctl.tracking.runs import json_table

expect = pytest.importorskip("playwright.sync_api", reason="needs playwright").expect

pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]

BY_EPOCH = "test/bits_per_dim_by_epoch"


def test_the_address_that_is_printed_shows_the_runs(ui, landing, record):
    ui.page.goto(landing)
    ui.wait_for_runs()
    expect(ui.page.get_by_role("heading", name="Runs")).to_be_visible()
    expect(ui.page.get_by_role("link", name="glow").first).to_be_visible()
    expect(ui.page.get_by_text("Traces and Sessions")).to_have_count(0)  # of the view for language models
    expect(ui.run_link(record.ablation.info.run_id)).to_have_text(record.ablation.info.run_name)


def test_charts_draw_the_trials_against_the_epoch(ui, record):
    ui.without_assistant()
    ui.open_charts(record.experiment_id)
    ui.expand(record.ablation.info.run_id)
    expect(ui.page.get_by_role("heading", name=BY_EPOCH).first).to_be_visible()
    expect(ui.lines().nth(len(record.trials) - 1)).to_be_attached()  # a line a trial
    expect(ui.lines().first).to_be_visible()


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
