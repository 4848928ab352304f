"""The files that ``--spec`` names: JSON on this machine, or ``runs:/RUN_ID/spec.json`` of a run in MLflow."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.errors import SpecError
from jobs.specs.ablation import AblateSpec, own_and_common
from jobs.specs.base import AnySpec, validated
from jobs.specs.training import TrainSpec

if TYPE_CHECKING:
    from jobs.text import JsonObject

__all__ = ["read_ablate_spec", "read_json", "read_spec"]

EXAMPLE = "use the spec.json of a run, such as runs:/RUN_ID/spec.json, or the output of --print-spec"
"""A remedy: where a spec can be had."""


def read_spec(spec: type[AnySpec], path: str | Path, values: Mapping[str, Any]) -> AnySpec:
    """Return the settings in a file, with some of them replaced.

    Args:
        spec: class of the spec.
        path: path of the file, or runs:/RUN_ID/FILE.
        values: values that replace those in the file, by the names of fields.

    Raises:
        SpecError: if the file cannot be read, or a setting is unknown or not allowed.
        TrackingError: if the MLflow store does not answer.
    """
    found = read_json(path, values.get("tracking_uri"))
    return validated(spec, {**found, **values}, str(path), values.keys())


def read_json(path: str | Path, tracking_uri: str | None = None) -> JsonObject:
    """Return the JSON object in a file.

    Args:
        path: path of the file, or runs:/RUN_ID/FILE for an artifact of a run.
        tracking_uri: value of --tracking-uri, if given.

    Raises:
        SpecError: if the file cannot be read, or contains no JSON object.
        TrackingError: if the MLflow store does not answer.
    """
    content = _content(str(path), tracking_uri)
    try:
        found = json.loads(content)
    except ValueError as error:
        raise SpecError(f"--spec {path} is not JSON ({error})", remedy=EXAMPLE, code="not-a-spec") from None
    if not isinstance(found, dict):
        raise SpecError(f"--spec {path} does not contain a JSON object", remedy=EXAMPLE, code="not-a-spec")
    return found


def _content(path: str, tracking_uri: str | None) -> bytes:
    artifact = re.fullmatch(r"runs:/([^/]+)/(.+)", path)
    if artifact is None:
        try:
            return Path(path).read_bytes()
        except OSError as error:
            raise SpecError(
                f"--spec {path} cannot be read ({error.strerror})", remedy="correct the path", code="spec-unreadable"
            ) from None
    from jobs import tracking  # mlflow takes a second

    uri = tracking.tracking_uri(tracking_uri)
    tracking.check_existing(uri)
    found = tracking.read_artifact(uri, artifact[1], artifact[2])
    if found is None:
        raise SpecError(
            f"--spec {path} does not exist in the MLflow store {tracking.without_password(uri)}",
            remedy="correct --spec or --tracking-uri",
            code="spec-unreadable",
        )
    return found


def read_ablate_spec(path: str | Path, values: Mapping[str, Any]) -> AblateSpec:
    """Return the settings of an ablation in a file, with some of them replaced, as `read_spec` does."""
    found = read_json(path, values.get("tracking_uri"))
    if not isinstance(found.get("train"), dict):
        raise SpecError(
            f"--spec {path} does not contain the settings of an ablation, because it has no object under the key train",
            remedy="use the spec.json of an ablation, such as runs:/RUN_ID/spec.json, or the output of glowctl ablate "
            "--print-spec",
            code="not-a-spec",
        )
    own, common = own_and_common(values)
    train = validated(TrainSpec, {**found["train"], **common}, str(path), common.keys())
    return validated(AblateSpec, {**found, **own, "train": train}, str(path), own.keys())
