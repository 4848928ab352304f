import io
import json
import math
import re
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console
from rich.text import Text

from glowctl.display.displays import JsonLines, LiveTable, PlainLines, make_display
from glowctl.display.events import (
    Ablating,
    AblationStopped,
    AblationSummary,
    Plan,
    Resize,
    Restart,
    TrialEnded,
    TrialEvent,
)
from tests.jobs.display import test_displays

ERASE = "\x1b[2K"

PLAN = Plan(
    trials=6,
    configurations=2,
    seeds=3,
    at_a_time=2,
    workers=1,
    cpus=1.0,
    gpus=0.0,
    epochs=8,
    labels=[f"{permutation} s{seed}" for seed in range(3) for permutation in ("1x1", "shuffle")],
)
STARTED = replace(test_displays.STARTED, workers=1, epochs=8, startup_seconds=None, run=None, run_id=None)
RESTART = Restart(**vars(replace(STARTED, epoch=3, restarts=2)))
RESIZE = Resize(**vars(RESTART))
STEP = replace(test_displays.STEP, epoch=3, epochs=8, validation_bits_per_dim=math.nan)
STANDING: dict[str, Any] = {"epoch": 3, "epochs": 8, "images_per_second": 123.4, "seconds_left": 65.0}
EPOCH = replace(test_displays.EPOCH, **STANDING, validation_bits_per_dim=2.6, skipped_steps=0)
FINISHED = TrialEnded(trial="1x1 s0", state="finished", reason=None, test_bits_per_dim=1.234, ended=1, of=6)
STOPPED = replace(FINISHED, state="stopped", reason="asha after epoch 2", test_bits_per_dim=math.nan, ended=2)
FAILED = replace(FINISHED, trial="shuffle s0", state="failed", reason="out of memory", ended=3)

CONFIGURATION = {
    "permutation": "1x1",
    "depth": 8,
    "seeds": 3,
    "unfinished": 0,
    "bits_per_dim": 1.6,
    "bits_per_dim_low": 1.5,
    "bits_per_dim_high": 1.7,
    "best": 1.55,
    "validation_bits_per_dim": 1.58,
    "images_per_second": 99.6,
    "parameters": 1234,
    "gpu_seconds": 0.0,
    "core_seconds": 61.4,
}
ALONE = CONFIGURATION | {
    "permutation": "shuffle",
    "seeds": 1,
    "unfinished": 2,
    "bits_per_dim_low": math.nan,
    "bits_per_dim_high": math.nan,
}
NOTHING = CONFIGURATION | dict.fromkeys(CONFIGURATION.keys() - {"permutation", "depth"}, math.nan)
NOTHING |= {"permutation": "reverse", "seeds": 0, "unfinished": 3}
DIFFERENCE: dict[str, Any] = {
    "factor": "permutation",
    "a": "1x1",
    "b": "shuffle",
    "difference": -0.2,
    "low": -0.3,
    "high": -0.1,
    "p": 0.01,
    "p_holm": 0.02,
    "seeds": 3,
    "configurations": 1,
}
UNDECIDED = DIFFERENCE | {"b": "reverse", "difference": 0.1, "seeds": 1}
UNDECIDED |= dict.fromkeys(["low", "high", "p_holm"], math.nan)
ABLATED = AblationSummary(
    run="ablate digits",
    run_id="abc",
    trials=9,
    finished=4,
    factors=["permutation", "depth"],
    configurations=[CONFIGURATION, ALONE, NOTHING],
    differences=[DIFFERENCE, UNDECIDED],
    conclusions=["permutation: a sentence."],
    unfinished=["5 trials failed."],
    best={"trial": "1x1 K8 s1", "run_id": "def", "validation_bits_per_dim": 1.5, "test_bits_per_dim": 1.6},
    champion={"name": "glow-digits", "version": "1", "run_id": "def", "new": True, "scored_lower": False},
    champion_uri="models:/glow-digits@champion",
    place="outputs/abc/summary",
    open_with="glowctl ui",
)


def of_trial(event, trial="1x1 s0"):
    return TrialEvent(trial, event)


def told(event, display=PlainLines):
    out = io.StringIO()
    with display(out) as show:
        show(event)
    return out.getvalue().splitlines()


def facts(line):
    """Return the numbers of a line with the things that they count."""
    return re.findall(r"[\d.]+ \w+", line)


def test_a_plan_says_what_will_run_and_with_what():
    trials, each, labels = told(PLAN)
    assert facts(trials) == ["6 trials", "2 configurations", "3 seeds", "8 epochs"]
    assert facts(each) == ["1 core", "2 trials"]
    assert labels.endswith(": " + ", ".join(PLAN.labels))


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"cpus": 2.0, "gpus": 0.25}, ["2 cores", "0.25 GPUs", "2 trials"]),
        ({"gpus": 1.0, "workers": 2, "at_a_time": 1}, ["1 core", "1 GPU", "2 workers", "1 trial"]),
    ],
)
def test_a_plan_says_what_each_worker_takes(change, expected):
    assert facts(told(replace(PLAN, **change))[1]) == expected


def test_a_plan_of_many_trials_names_the_first():
    [*_, line] = told(replace(PLAN, labels=[f"K{number}" for number in range(15)]))
    first, last = ", ".join(f"K{number}" for number in range(12)), "3 more"
    assert first in line
    assert line.endswith(last)
    assert "K12" not in line


def test_a_plan_of_trials_that_are_not_known_yet_names_none():
    assert len(told(replace(PLAN, labels=[]))) == 2


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        (of_trial(STARTED), ["[1x1 s0] started"]),
        (of_trial(replace(STARTED, epoch=2)), ["[1x1 s0] ", "epoch 2"]),
        (of_trial(EPOCH), ["[1x1 s0] epoch 3/8 ", "2.500", "2.600 bits/dim", "123 images/s", "1:05"]),
        (of_trial(RESTART), ["[1x1 s0] restarted", "epoch 3", "restart 2"]),
        (FINISHED, ["[1x1 s0] finished", "1.234 bits/dim", "(1 of 6)"]),
        (STOPPED, ["[1x1 s0] stopped", STOPPED.reason, "(2 of 6)"]),
        (FAILED, ["[shuffle s0] failed", FAILED.reason, "(3 of 6)"]),
        (Ablating("ablate digits", "abc", []), ["ablate digits", "run abc"]),
        (AblationStopped("abc"), ["glowctl ablate --resume abc"]),
    ],
)
def test_an_event_is_a_line(event, expected):
    [line] = told(event)
    assert [fact for fact in expected if fact not in line] == []


@pytest.mark.parametrize("said", [STEP, RESIZE])
def test_steps_and_growth_are_left_out(said):
    assert told(of_trial(said)) == []


def test_the_end_is_two_tables_what_they_mean_and_where_it_is():
    configurations, differences, sentences, places = "\n".join(told(ABLATED)).split("\n\n")
    assert [line.split("  ")[0] for line in configurations.splitlines()[1:]] == [
        "configuration",
        "1x1 K8",
        "shuffle K8",
        "reverse K8",
    ]
    assert configurations.splitlines()[2].split() == [
        *("1x1", "K8", "1.600", "1.500", "to", "1.700", "1.550", "1.580", "3", "100", "1234", "61")
    ]
    assert differences.splitlines()[2].split() == [
        *("permutation", "1x1", "-", "shuffle", "-0.200", "-0.300", "to", "-0.100", "0.020", "3", "1")
    ]
    assert sentences.splitlines() == [*ABLATED.conclusions, *ABLATED.unfinished]
    best, results, run = (line.split(maxsplit=1) for line in places.splitlines())
    assert (best[0], results, run[0]) == ("best", ["results", "outputs/abc/summary"], "run")
    for fact in ("1x1 K8 s1", "1.500", "1.600 bits/dim", "models:/glow-digits@champion"):
        assert fact in best[1]
    assert run[1].startswith("abc")
    assert run[1].endswith("glowctl ui")


def test_what_has_no_interval_or_no_score_is_a_dash():
    configurations, differences, *_ = "\n".join(told(ABLATED)).split("\n\n")
    alone, nothing = (line.split() for line in configurations.splitlines()[3:])
    assert alone == ["shuffle", "K8", "1.600", "-", "1.550", "1.580", "1", "of", "3", "100", "1234", "61"]
    assert nothing == ["reverse", "K8", "-", "-", "-", "-", "0", "of", "3", "-", "-", "-"]
    undecided = differences.splitlines()[3].split()
    assert undecided == ["permutation", "1x1", "-", "reverse", "+0.100", "-", "-", "1", "1"]


@pytest.mark.parametrize("seconds", [0.0, 30.0])
def test_gpu_seconds_are_told_where_there_are_any(seconds):
    [_, head, first, *_] = told(replace(ABLATED, configurations=[CONFIGURATION | {"gpu_seconds": seconds}]))
    assert ("GPU-seconds" in head, first.endswith(" 30")) == (seconds > 0, seconds > 0)


def test_a_champion_of_before_that_stays_is_named():
    assert ABLATED.champion is not None
    champion = ABLATED.champion | {"run_id": "old", "new": False, "scored_lower": True}
    [line] = [line for line in told(replace(ABLATED, champion=champion)) if line.startswith("best")]
    assert "run old" in line.split("models:/glow-digits@champion")[1]
    assert "scored lower" in line


def test_where_nothing_finished_no_trial_is_called_the_best():
    assert not any("best  " in line for line in told(replace(ABLATED, best=None, champion=None))[-3:])


def test_the_end_is_valid_json_without_nan():
    [line] = told(ABLATED, JsonLines)
    parsed = json.loads(line, parse_constant=pytest.fail)
    assert parsed["configurations"][1]["bits_per_dim_low"] is None
    assert parsed["differences"][1]["p_holm"] is None
    assert parsed["configurations"][0] == CONFIGURATION
    assert parsed["champion_uri"] == "models:/glow-digits@champion"


class Terminal:
    """A terminal of 20 lines."""

    def __init__(self, monkeypatch):
        monkeypatch.setenv("TERM", "xterm")
        self.out = io.StringIO()
        self.console = Console(file=self.out, force_terminal=True, width=120, height=20)

    def after(self, *events):
        """Return all lines that the last event writes, and those of the table that remains."""
        with LiveTable(self.console) as show:
            for event in events:
                self.out.seek(0)
                self.out.truncate()
                show(event)
            written = self.out.getvalue()
        return lines_of(written), lines_of(written.rpartition(ERASE)[2])


@pytest.fixture
def terminal(monkeypatch):
    return Terminal(monkeypatch)


def lines_of(written):
    return [line.rstrip() for line in Text.from_ansi(written).plain.splitlines()]


def cells(line):
    return [cell.strip() for cell in line.strip("│").split("│")]


def rows(table):
    """Return the rows of a table by their first cell."""
    return {found[0]: found[1:] for line in table if line.startswith("│") for found in [cells(line)]}


def test_a_table_shows_what_is_known_of_each_trial(terminal):
    _, table = terminal.after(
        PLAN, of_trial(STARTED), of_trial(EPOCH), of_trial(STEP), FAILED, of_trial(STARTED, "1x1 s1")
    )
    shown = rows(table)
    assert shown["1x1 s0"] == ["3/8", "2.500", "-", "-", "123", "1:05", "running"]
    assert shown["shuffle s0"][-1] == "failed"
    assert shown["1x1 s1"] == ["-", "-", "-", "-", "-", "-", "running"]
    assert shown["shuffle s1"] == ["-", "-", "-", "-", "", "", "waiting"]


def test_a_table_shows_the_score_of_a_finished_trial_and_no_pace(terminal):
    _, table = terminal.after(PLAN, of_trial(STARTED), of_trial(EPOCH), FINISHED)
    assert rows(table)["1x1 s0"] == ["3/8", "2.500", "2.600", "1.234", "", "", "finished"]


def test_a_table_shows_how_trials_ended_before_the_ablation_was_resumed(terminal):
    before = Ablating("ablate digits", "abc", ["1x1 s0"], {"1x1 s0": "finished", "1x1 s1": "stopped"})
    _, table = terminal.after(PLAN, before)
    states = {trial: cells[-1] for trial, cells in rows(table).items()}
    assert (states["1x1 s0"], states["1x1 s1"], states["1x1 s2"]) == ("finished", "stopped", "waiting")


def test_a_table_shows_what_runs_then_what_ended_and_says_how_many_there_is_no_room_for(terminal):
    ended, *running = replace(STOPPED, trial="K3"), of_trial(STARTED, "K29"), of_trial(STARTED, "K28")
    _, table = terminal.after(replace(PLAN, labels=[f"K{number}" for number in range(30)]), ended, *running)
    *shown, last = rows(table)
    assert shown[:4] == ["K28", "K29", "K3", "K0"]
    assert last == f"and {30 - len(shown)} more"
    assert len(table) <= 20


def test_the_line_of_what_is_done_stays_above_the_table(terminal):
    written, table = terminal.after(PLAN, of_trial(STARTED), FINISHED)
    line = "[1x1 s0] finished"
    assert any(shown.startswith(line) for shown in written)
    assert not any(shown.startswith(line) for shown in table)


def test_at_the_end_the_table_gives_way_to_the_summary(terminal):
    written, table = terminal.after(PLAN, of_trial(STARTED), ABLATED)
    assert any(line.split() == ["results", "outputs/abc/summary"] for line in written)
    assert rows(table) == {}


def test_a_terminal_gets_a_table_where_there_are_many_trainings(monkeypatch):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    assert isinstance(make_display("auto", table=True), LiveTable)
    assert not isinstance(make_display("auto"), LiveTable)
