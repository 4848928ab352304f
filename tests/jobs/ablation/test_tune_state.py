"""The files in which Ray Tune saves an experiment are found, and damage is noticed. No Ray."""

import json
import pickle
from pathlib import Path

import pytest

from jobs.ablation.tune_state import damaged_file, has_begun

FILES = {
    "tuner.pkl": pickle.dumps({"a": 1}),
    "experiment_state-2026-01-02_03-04-05.json": json.dumps({"trials": []}).encode(),
    "searcher-state-2026-01-02_03-04-05.pkl": pickle.dumps([1, 2]),
    "search_gen_state-2026-01-02_03-04-05.json": pickle.dumps([3]),
}


@pytest.fixture
def saved(tmp_path):
    for name, content in FILES.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "trial").mkdir()
    return tmp_path


def test_an_experiment_has_begun_when_its_trials_are_saved(saved):
    assert has_begun(str(saved))
    assert damaged_file(str(saved)) is None


@pytest.mark.parametrize("name", FILES)
def test_an_experiment_has_not_begun_if_a_file_is_missing(saved, name):
    (saved / name).unlink()
    assert not has_begun(str(saved))


def test_trials_that_are_known_beforehand_need_no_searcher(saved):
    for name in FILES:
        if "sear" in name:
            (saved / name).unlink()
    assert not has_begun(str(saved))
    (saved / "basic-variant-state-2026-01-02_03-04-05.json").write_bytes(pickle.dumps([4]))
    assert has_begun(str(saved))


def test_an_experiment_has_not_begun_without_a_folder(tmp_path):
    assert not has_begun(str(tmp_path / "nowhere"))


def damage(path: Path, kept: float) -> None:
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * kept)])


@pytest.mark.parametrize("kept", [0, 0.5])
@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_cut_short_is_named(saved, name, kept):
    damage(saved / name, kept)
    assert damaged_file(str(saved)) == str(saved / name)


def test_files_from_before_the_last_restore_are_not_read(saved):
    state = saved / "experiment_state-2026-01-02_03-04-05.json"
    state.with_name("experiment_state-2026-01-02_03-04-06.json").write_bytes(state.read_bytes())
    damage(state, 0.5)
    assert damaged_file(str(saved)) is None


def test_a_file_that_was_being_written_is_not_read(saved):
    (saved / ".tmp-experiment_state-2026-01-02_03-04-07.json").write_bytes(b"")
    assert damaged_file(str(saved)) is None
