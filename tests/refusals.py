"""Errors that a user can meet, as tests expect them."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from glow.errors import UserError


@contextmanager
def refused(
    code: str, kind: type[UserError] = UserError, match: str | None = None
) -> Iterator[pytest.ExceptionInfo[UserError]]:
    """Expect an error with this code and a remedy."""
    with pytest.raises(kind, match=match) as raised:
        yield raised
    assert raised.value.code == code
    assert raised.value.remedy
