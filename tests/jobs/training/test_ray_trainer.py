from types import SimpleNamespace

import pytest
from ray.exceptions import OutOfMemoryError
from ray.train import Checkpoint
from ray.tune.error import TuneError

from glowctl.training.messages import Message, Stored
from glowctl.training.ray_trainer import StoredNotices, death_behind, plain_reason
from glowctl.training.worker import INSIDE_EPOCH


def raised(outer: Exception, inner: Exception, explicit: bool) -> Exception:
    """Raise an error that another error caused, and return it."""
    try:
        try:
            raise inner
        except Exception as error:
            if explicit:
                raise outer from error
            raise outer  # noqa: B904
    except Exception as error:
        return error


@pytest.mark.parametrize("explicit", [True, False])
def test_want_of_memory_is_found_beneath_what_tune_makes_of_it(explicit):
    error = raised(TuneError("Traceback ..."), OutOfMemoryError("2 worker(s) were killed"), explicit)
    assert isinstance(death_behind(error), OutOfMemoryError)
    assert death_behind(raised(TuneError("x"), ValueError("y"), explicit)) is None


def test_want_of_memory_is_said_in_a_sentence_and_not_in_rays_report():
    error = OutOfMemoryError("2 worker(s) were killed\nTop 10 memory users: ...")
    reason = plain_reason(error)
    assert "memory" in reason
    assert "users" not in reason


def test_the_driver_is_told_of_checkpoints_after_epochs():
    told: list[Message] = []
    notices = StoredNotices(SimpleNamespace(put=told.append))
    checkpoint = Checkpoint("/some/checkpoint")
    notices.after_report(None, [{"epoch": 1}, {"epoch": 1}], checkpoint)
    notices.after_report(None, [INSIDE_EPOCH], checkpoint)
    notices.after_report(None, [{"epoch": 2}], None)
    assert told == [Stored("/some/checkpoint")]
