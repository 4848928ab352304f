"""Settings of watches for tests."""

from pathlib import Path
from typing import Any

from glowctl.specs.base import validated
from glowctl.specs.monitoring import WatchSpec


def spec_in(store: Path, out: Path, **settings: Any) -> WatchSpec:
    where = {"tracking_uri": f"sqlite:///{store}/mlflow.db", "output": str(out), "source": "-"}
    return validated(WatchSpec, {**where, **settings})
