"""Storage that cannot be read is told from an empty one."""

import pytest

from glowctl.errors import JobError
from glowctl.outputs import KeptRun, recall, remember
from glowctl.training.prepare import prepare_resume
from tests.glow.buckets import refusing_store


def test_a_bucket_may_hold_no_run(bucket):
    place = bucket.uri("outputs/run")
    assert recall(place) is None
    assert recall("s3://no-such-bucket-here/outputs/run") is None
    kept = KeptRun(job="train", run_id="abc", run_name="a name", spec={"depth": 8}, images={})
    remember(place, kept)
    assert recall(place) == kept


@pytest.fixture
def refusing(monkeypatch):
    """The URI of a bucket whose server refuses every request, as a store does without the right credentials."""
    with refusing_store(monkeypatch) as uri:
        yield f"{uri}/outputs/run"


def test_a_bucket_that_refuses_is_named_with_the_cause(refusing, tmp_path):
    with pytest.raises(JobError, match=f"{refusing} cannot be read .*(?i:denied)") as raised:
        prepare_resume(refusing, {"tracking_uri": f"sqlite:///{tmp_path}/mlflow.db"})
    assert raised.value.code == "output-not-readable"
    assert "credentials" in raised.value.remedy


def test_a_place_of_an_unknown_kind_is_named():
    with pytest.raises(JobError, match="no-such-kind://bucket/run") as raised:
        recall("no-such-kind://bucket/run")
    assert raised.value.code == "output-not-readable"
