"""Registered models and their aliases, in the library and on the command line."""

import json

import pytest

from glowctl.evaluation.find_model import find_model
from glowctl.tracking import tag_names
from glowctl.tracking.record import Record
from glowctl.tracking.registry import promote, registered_versions, set_champion
from glowctl.tracking.store import open_store
from glowctl.tracking.uris import TrackingError
from glowctl.training.publish import release
from tests.jobs.command_line import check_quiet, sentence_of
from tests.jobs.served import default_store
from tests.jobs.trained import NAME, train_into, work_in


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """Make a store with two versions of glow-digits that have equal weights.

    Returns:
        The store's folder, its URI, and the ids of both runs.
    """
    folder = tmp_path_factory.mktemp("registry")
    work = work_in(folder, class_conditional=True)
    first = train_into(folder)
    second = Record.start(work.tracking_uri, "glow", "train digits again", work.tags(), {})
    release(work, second, folder / "trained" / "checkpoint", {}, 2.0)
    second.finish("FINISHED")
    return folder, work.tracking_uri, first, second.run_id


def test_models_lists_the_newest_first(two, one_process):
    folder, uri, first, second = two
    promote(uri, "glow", "glow-digits/1", "champion")
    versions = registered_versions(uri, "glow-digits")
    assert [(entry.version, entry.run, entry.run_id) for entry in versions] == [
        ("2", "train digits again", second),
        ("1", NAME, first),
    ]
    assert [entry.validation_bits_per_dim for entry in versions] == [2.0, 3.0]
    described = open_store(uri, "glow")[0].get_model_version("glow-digits", "2").description
    assert described is not None
    assert "train digits again" in described
    assert "2.000" in described
    _, newest, oldest = one_process(folder, "models").stdout.splitlines()
    assert newest.split()[:5] == ["glow-digits/2", "-", "train", "digits", "again"]
    assert oldest.split()[:6] == ["glow-digits/1", "champion", "train", "digits", "small", "3.000"]
    events = [json.loads(line) for line in one_process(folder, "models", "--limit", "1", "--json").stdout.splitlines()]
    assert [(event["uri"], event["event"]) for event in events] == [("models:/glow-digits/2", "model")]


def test_where_there_are_no_models_it_says_so(two, one_process):
    told = one_process(two[0], "models", "glow-none")
    assert told.returncode == 0
    assert "glow-none" in told.stdout
    assert "models:/" not in told.stdout


NAMES = ["glow-digits/1", "models:/glow-digits/1", "glow-digits@first", NAME, "the run's id", "its first letters"]


@pytest.mark.parametrize("by", NAMES)
def test_a_model_is_promoted_by_every_name_it_has(two, by):
    _, uri, first, _ = two
    promote(uri, "glow", "glow-digits/1", "first")
    promote(uri, "glow", "glow-digits/2", "production")
    ids = {"the run's id": first, "its first letters": first[:8]}
    done = promote(uri, "glow", ids.get(by, by), "production")
    assert (done.uri, done.version, done.before) == ("models:/glow-digits@production", "1", "2")
    assert find_model("models:/glow-digits@production", uri, "glow").run_id == first


def test_the_command_says_what_was_promoted_and_why_nothing_was(two, one_process):
    folder, uri, _, _ = two
    promote(uri, "glow", "glow-digits/2", "production")
    done = one_process(folder, "promote", "glow-digits/1", "production")
    check_quiet(done)
    assert done.stdout.count("\n") == 1
    for fact in ("models:/glow-digits@production", "version 1", "version 2"):
        assert fact in done.stdout
    assert "latest" in sentence_of(one_process(folder, "promote", "glow-digits/1", "latest"))


def test_the_newest_is_latest_by_both_of_mlflows_names(two):
    import mlflow.pyfunc  # it warns

    _, uri, _, second = two
    for name in ("models:/glow-digits@latest", "models:/glow-digits/latest"):
        assert find_model(name, uri, "glow").run_id == second
    with default_store(uri):
        loaded = mlflow.pyfunc.load_model("models:/glow-digits@latest")
    assert loaded.metadata.metadata["run_id"] == second


@pytest.mark.parametrize(
    ("model", "alias", "code", "named"),
    [
        ("glow-digits/7", "best", "model-not-found", "'glow-digits/7'"),
        ("glow-none@best", "best", "model-not-found", "'glow-none@best'"),
        ("nothing", "best", "model-not-found", "'nothing'"),
        ("glow-digits/1", "Latest", "alias-reserved", "latest"),
        ("glow-digits/1", "v2", "alias-invalid", "'v2'"),
        ("glow-digits/1", "a b!", "alias-invalid", "'a b!'"),
    ],
)
def test_what_cannot_be_promoted_is_said_in_a_sentence(two, model, alias, code, named):
    _, uri, _, _ = two
    with pytest.raises(TrackingError) as raised:
        promote(uri, "glow", model, alias)
    assert raised.value.code == code
    assert named in raised.value.problem


def test_a_run_that_left_no_model_cannot_be_promoted(two):
    _, uri, _, _ = two
    run = Record.start(uri, "glow", "no model", {"glow.job": "train"}, {})
    run.finish("FAILED")
    with pytest.raises(TrackingError, match="'no model'") as raised:
        promote(uri, "glow", "no model", "best")
    assert raised.value.code == "model-missing"


def test_a_run_whose_name_looks_like_a_models_can_be_promoted(two):
    folder, uri, _, _ = two
    work = work_in(folder, class_conditional=True)
    run = Record.start(uri, "glow", "first/try", work.tags(), {})
    release(work, run, folder / "trained" / "checkpoint", {}, 4.0)
    try:
        assert promote(uri, "glow", "first/try", "best").version == "3"
    finally:
        open_store(uri, "glow")[0].delete_model_version("glow-digits", "3")


def test_models_and_promote_make_no_store(tmp_path, one_process):
    for arguments in (("models",), ("promote", "glow-digits/1", "best")):
        assert str(tmp_path / "mlflow.db") in sentence_of(one_process(tmp_path, *arguments))
    assert list(tmp_path.iterdir()) == []


def test_a_store_that_fails_for_a_moment_costs_no_champion_its_alias(two, monkeypatch):
    """If a failing store were read as one without a champion, another version would get the alias."""
    from mlflow.exceptions import RestException

    _, uri, first, _ = two
    promote(uri, "glow", "glow-digits/2", "champion")

    def away(*_: object) -> None:
        raise RestException({"error_code": "TEMPORARILY_UNAVAILABLE", "message": "unavailable"})

    with monkeypatch.context() as patch:
        patch.setattr("mlflow.MlflowClient.get_model_version_by_alias", away)
        with pytest.raises(TrackingError, match="unavailable"):
            set_champion(uri, "glow-digits", first, 3.0, "other images")
    images = open_store(uri, "glow")[0].get_model_version("glow-digits", "2").tags[tag_names.IMAGES]
    assert set_champion(uri, "glow-digits", first, 3.0, images).version == "2"  # its score, 2.0, is lower


def test_a_version_whose_run_was_deleted_is_listed(two):
    _, uri, _, second = two
    client, _ = open_store(uri, "glow")
    client.delete_run(second)
    try:
        assert [entry.version for entry in registered_versions(uri)] == ["2", "1"]
    finally:
        client.restore_run(second)
