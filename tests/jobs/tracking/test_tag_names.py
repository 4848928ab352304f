"""Names of tags and metrics are spelled out in one module each."""

import re
from pathlib import Path

import glowctl
from glowctl.tracking import metric_names, tag_names

ROOM = Path(glowctl.__file__).parent


def spelled(pattern: str, home: str) -> list[str]:
    """Return where else than in its home module a name is spelled out in a string."""
    files = [file for file in ROOM.rglob("*.py") if file.name not in (home, "served_glow.py")]
    return [f"{file.relative_to(ROOM)}: {line}" for file in files for line in re.findall(pattern, file.read_text())]


def test_every_tag_is_spelled_once():
    found = spelled(r"""["'](?:glow|mlflow)\.[a-z]+[A-Za-z_]*["']""", "tag_names.py")
    assert found == ['tracking/store.py: "mlflow.tracking_store"']  # this is not a tag
    names = [value for name, value in vars(tag_names).items() if name.isupper()]
    assert len(names) == len(set(names))
    assert "glow.job" in names


def test_every_metric_of_a_training_is_spelled_once():
    assert spelled(r"""["'](?:train|validation|test)/[a-z_]+["']""", "metric_names.py") == []
    assert metric_names.TEST == "test/bits_per_dim"
