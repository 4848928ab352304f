from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.errors import SpecError
from jobs.specs.ablation import AblateSpec, own_and_common
from jobs.specs.base import Spec, validated
from jobs.specs.training import TrainSpec

if TYPE_CHECKING:
    from jobs.text import JsonObject

__all__ = ["read_ablate_spec", "read_json", "read_spec"]


def read_spec(spec: type[Spec], path: str | Path, values: Mapping[str, Any]) -> Spec:
    """The spec in a JSON file with `values` over it. Raises SpecError for a file that holds none."""
    return validated(spec, {**read_json(path, values.get("tracking_uri")), **values})


def read_json(path: str | Path, tracking_uri: str | None = None) -> JsonObject:
    """The settings in a JSON file, or in the artifact runs:/ID/FILE of a run. Raises SpecError for one that holds none,
    and TrackingError for a store that does not answer."""
    content = _content(str(path), tracking_uri)
    try:
        found = json.loads(content)
    except ValueError as error:
        raise SpecError(f"{path} is not JSON ({error}): every run in MLflow has a spec.json") from None
    if not isinstance(found, dict):
        raise SpecError(f"{path} holds no settings: every run in MLflow has a spec.json")
    return found


def _content(path: str, tracking_uri: str | None) -> bytes:
    artifact = re.fullmatch(r"runs:/([^/]+)/(.+)", path)
    if artifact is None:
        try:
            return Path(path).read_bytes()
        except OSError as error:
            raise SpecError(f"cannot read the spec {path}: {error.strerror}") from None
    from jobs import tracking  # mlflow takes a second

    uri = tracking.tracking_uri(tracking_uri)
    tracking.check_existing(uri)
    found = tracking.read_artifact(uri, artifact[1], artifact[2])
    if found is None:
        raise SpecError(f"there is no {path} in {tracking.without_password(uri)}: correct --spec, or --tracking-uri")
    return found


def read_ablate_spec(path: str | Path, values: Mapping[str, Any]) -> AblateSpec:
    """The spec in a JSON file with `values` over it. Raises SpecError for a file that holds none."""
    found = read_json(path, values.get("tracking_uri"))
    if not isinstance(found.get("train"), dict):
        raise SpecError(f"{path} is not the spec of an ablation: its runs in MLflow have a spec.json with train in it")
    own, common = own_and_common(values)
    return validated(AblateSpec, {**found, **own, "train": validated(TrainSpec, {**found["train"], **common})})
