"""Sequential tests on simulated streams whose truth is known."""

from __future__ import annotations

import pickle
import time
from typing import get_args

import numpy as np
import pytest
from scipy.stats import binom, kstest

from benchmarks.monitoring import DRAWS, HELD_OUT, delay, false_alarms, run_length
from glow.ood import monitor as module
from glow.ood.bands import spread_ranks, tail_bounds
from glow.ood.bets import ALTERNATIVES, log_bets
from glow.ood.monitor import Monitor, _Growing, _keys

REFERENCES = get_args(module.Reference)
each_reference = pytest.mark.parametrize("reference", REFERENCES)


def normal(seed: int, n: int, mean: float = 0.0, detectors: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(mean, size=(n, detectors))


def within(count: int, trials: int, probability: float) -> bool:
    """Whether so many successes are likely, at a level of one in ten thousand on each side."""
    return bool(binom.ppf(1e-4, trials, probability) <= count <= binom.ppf(1 - 1e-4, trials, probability))


@pytest.mark.parametrize("n", [2, 10, 300])
@pytest.mark.parametrize("failure", [0.3, 0.02])
def test_a_band_misses_the_distribution_as_often_as_it_may(n: int, failure: float) -> None:
    trials = 4000
    above = 1 - np.sort(np.random.default_rng(n).random((trials, n)), axis=1)[:, spread_ranks(n) - 1]
    missed = (above > tail_bounds(n, failure)).any(1)
    assert within(missed.sum(), trials, failure)


def test_a_band_is_narrower_in_the_tail_than_that_of_dvoretzky_kiefer_and_wolfowitz() -> None:
    n, failure = 1000, 0.01
    at_most, above = tail_bounds(n, failure), 1 - spread_ranks(n) / n
    everywhere = np.sqrt(np.log(1 / failure) / (2 * n))
    tail = above < 0.05
    assert (at_most[tail] < above[tail] + everywhere / 1.5).all()
    assert (np.diff(at_most) < 0).all()
    assert spread_ranks(n).tolist() == (n + 1 - spread_ranks(n)[::-1]).tolist()


def test_no_distribution_in_the_band_gains_by_a_bet() -> None:
    n = 200
    nominal, at_most = 1 - spread_ranks(n) / (n + 1), tail_bounds(n, 0.01)
    pay = np.exp(log_bets(nominal, at_most))
    rng = np.random.default_rng(0)
    best = np.zeros(len(pay))
    for _ in range(500):  # tails anywhere between none and the bound, which must descend
        tails = np.minimum.accumulate(at_most * rng.choice([1.0, rng.random()], size=len(at_most)))
        mass = -np.diff(np.concatenate([[1.0], tails, [0.0]]))
        best[: len(ALTERNATIVES)] = np.maximum(best[: len(ALTERNATIVES)], pay[: len(ALTERNATIVES)] @ mass)
        best[len(ALTERNATIVES) :] = np.maximum(best[len(ALTERNATIVES) :], pay[len(ALTERNATIVES) :] @ mass[::-1])
    assert (best <= 1 + 1e-9).all()
    assert best.max() > 0.99  # the bounds themselves are among them


def test_bets_on_a_known_distribution_lose_nothing() -> None:
    tails = np.linspace(1, 0, 101)[1:-1]
    bets = log_bets(tails, tails)
    assert np.allclose(np.exp(bets).mean(1), 1)
    from scipy import special

    shifted = -np.diff(special.ndtr(special.ndtri(np.linspace(1, 0, 101)) + 1.0))
    growth = bets @ shifted
    assert growth.argmax() == ALTERNATIVES.index((1.0, 1.0))
    assert growth.max() == pytest.approx(0.5, abs=0.02)  # the divergence of N(1, 1) from N(0, 1), less that of cells


@each_reference
@pytest.mark.parametrize("limit", [{"alpha": 0.99}, {"every": 100}])
def test_evidence_does_not_depend_on_how_the_stream_is_divided(reference, limit, monkeypatch) -> None:
    monkeypatch.setattr(module, "MOST_EDGES", 700)
    monkeypatch.setattr(module, "RECENT", 300)
    rng = np.random.default_rng(1)
    stream = np.concatenate([rng.poisson(2, (900, 2)), rng.poisson(4, (200, 2))]).astype(float)
    held_out = rng.poisson(2, (150, 2)).astype(float)
    whole, pieces = (Monitor(held_out, reference=reference, seed=3, **limit) for _ in range(2))
    expected = whole.update(stream)
    found = []
    while pieces.images < len(stream):
        found.append(pieces.update(stream[pieces.images :][: rng.choice([1, 2, 7, 100, 300])]))
        pieces = pickle.loads(pickle.dumps(pieces))  # as a process that is killed and resumed
    assert np.concatenate(found).tobytes() == expected.tobytes()
    assert pieces.alarms == whole.alarms != []


@pytest.mark.parametrize("edges", [50, 400, 10_000])
@pytest.mark.parametrize("kind", DRAWS)
def test_growing_ranks_are_uniform_and_independent(edges: int, kind: str, monkeypatch) -> None:
    monkeypatch.setattr(module, "MOST_EDGES", edges)
    cells = []
    for seed in range(60):
        rng = np.random.default_rng([seed, edges])
        scores, ties = DRAWS[kind](rng, 1050), rng.random(1050)
        keys = _keys(scores, ties)
        cells.append(_Growing(keys[:50], 0.0).cells(keys[50:], rng.random(1000)))
    shares = np.concatenate([[0.0], _Growing(keys[:50], 0.0)._shares, [1.0]])
    cell = np.concatenate(cells)
    spread = shares[cell] + np.random.default_rng(0).random(cell.size) * np.diff(shares)[cell]
    assert kstest(spread, "uniform").pvalue > 1e-4
    assert kstest((spread[1:] + spread[:-1]) % 1, "uniform").pvalue > 1e-4  # of neighbours, if independent


@each_reference
@pytest.mark.parametrize("kind", DRAWS)
def test_false_alarms_are_as_rare_as_promised(reference, kind: str) -> None:
    streams, alpha = 60, 0.8
    share = false_alarms(reference, DRAWS[kind], 50, streams, alpha, images=2000)
    assert share * streams <= binom.ppf(1 - 1e-4, streams, 1 - alpha)


def test_without_the_band_a_fixed_reference_alarms_far_too_often(monkeypatch) -> None:
    monkeypatch.setattr(module, "tail_bounds", lambda n, failure: 1 - spread_ranks(n) / (n + 1))
    assert false_alarms("fixed", DRAWS["normal"], 50, 20, 0.99, images=2000) > 0.4


@pytest.mark.nightly
@each_reference
@pytest.mark.parametrize("kind", DRAWS)
@pytest.mark.parametrize("n", HELD_OUT)
def test_one_healthy_stream_of_a_hundred_alarms(reference, kind: str, n: int) -> None:
    streams, rate = 1000, 0.01
    assert false_alarms(reference, DRAWS[kind], n, streams, 1 - rate) <= rate + 2 * np.sqrt(rate / streams)


@each_reference
def test_runs_between_false_alarms_are_as_long_as_promised(reference) -> None:
    every, monitors = 200, [Monitor(normal(seed, 300), reference=reference, every=200, seed=seed) for seed in range(8)]
    for seed, monitor in enumerate(monitors):
        monitor.update(normal(100 + seed, 10_000))
    alarms = sum(len(monitor.alarms) for monitor in monitors)
    assert alarms <= 80_000 / every + 4 * np.sqrt(80_000 / every)
    assert alarms > 0  # the promise is not kept by silence


@pytest.mark.nightly
@each_reference
def test_ten_thousand_images_between_false_alarms(reference) -> None:
    assert run_length(reference, 1000, 10_000, 100) >= 10_000


@pytest.mark.parametrize("healthy", [0, 100])
def test_a_shift_by_one_standard_deviation_is_found_within_25_images(healthy: int) -> None:
    assert delay("growing", 1000, healthy, 100) <= 25


def test_a_fixed_reference_finds_the_same_shift_within_40_images() -> None:
    assert delay("fixed", 1000, 100, 100) <= 40


@each_reference
@pytest.mark.parametrize("detector", [0, 1])
@pytest.mark.parametrize("shift", [-1.5, 1.5])
def test_an_alarm_names_detector_and_direction_and_when_it_began(reference, detector: int, shift: float) -> None:
    started: list[bool] = []
    moved: list[int] = []
    for seed in range(20):
        monitor = Monitor(normal(seed, 1000, detectors=2), reference=reference)
        stream = normal(seed + 100, 800, detectors=2)
        stream[500:, detector] += shift
        monitor.update(stream)
        (alarm,) = monitor.alarms
        assert (alarm.detector, alarm.higher) == (detector, shift > 0)
        assert alarm.earliest <= alarm.start <= alarm.latest <= alarm.image
        moved += alarm.moved
        started.append(alarm.earliest <= 501 <= alarm.latest)
    assert np.mean(started) >= 0.6
    assert np.mean(np.array(moved) > 500) > 0.8


@each_reference
def test_a_few_strangers_among_many_are_found(reference) -> None:
    rng = np.random.default_rng(0)
    monitor = Monitor(normal(1, 5000), reference=reference)
    stream = normal(2, 3000)
    stream[1000:][rng.random(2000) < 0.05] = np.nan  # a score that is not finite is the largest
    monitor.update(stream)
    assert 1000 < monitor.alarms[0].image < 1600


def test_bets_begin_anew_after_each_alarm_of_every() -> None:
    monitor = Monitor(normal(0, 500), every=1000)
    evidence = monitor.update(normal(1, 300, mean=2.0))
    at = [alarm.image - 1 for alarm in monitor.alarms]
    assert len(at) > 3
    assert (evidence[at] >= monitor.threshold).all()
    assert (np.delete(evidence, at) < monitor.threshold).all()


def test_after_an_alarm_evidence_goes_on_without_a_second() -> None:
    monitor = Monitor(normal(0, 500))
    evidence = monitor.update(normal(1, 300, mean=2.0))
    assert len(monitor.alarms) == 1
    assert evidence[-1] > evidence[monitor.alarms[0].image - 1] >= monitor.threshold


@each_reference
def test_scores_that_are_all_equal_give_no_evidence(reference) -> None:
    monitor = Monitor(np.zeros((100, 1)), reference=reference)
    monitor.update(np.zeros((5000, 1)))
    assert monitor.alarms == []


@pytest.mark.parametrize(
    ("held_out", "settings", "said"),
    [
        (np.zeros((1, 1)), {}, "2 images"),
        (np.zeros(5), {}, "one column per detector"),
        (np.zeros((5, 1)), {"alpha": 1.0}, "alpha"),
        (np.zeros((5, 1)), {"every": 1}, "every"),
        (np.zeros((5, 1)), {"reference": "moving"}, "moving"),
    ],
)
def test_what_cannot_be_monitored_is_refused(held_out, settings, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Monitor(held_out, **settings)


def test_other_detectors_than_those_of_the_reference_are_refused() -> None:
    with pytest.raises(ValueError, match="2 scores per image, not 1"):
        Monitor(np.zeros((5, 2))).update(np.zeros((3, 1)))


@pytest.mark.timing
@each_reference
def test_a_million_bets_take_less_than_ten_seconds(reference) -> None:
    monitor, scores = Monitor(normal(0, 5000), reference=reference), normal(1, 1_000_000)
    started = time.process_time()
    monitor.update(scores)
    assert time.process_time() - started < 10
