"""The files from which ``ray up`` or ``kubectl`` makes a cluster, for people without a clone: ``glowctl cluster init``.

They are those of the repository, with the user's settings, and with glowctl installed from a package index in place of
the clone. A text that is to be replaced and is not there is an error of ours, which the tests would find.
"""

from __future__ import annotations

import re
from importlib.metadata import version
from pathlib import Path
from typing import Literal

from glowctl.errors import SpecError

Kind = Literal["aws", "local", "kuberay"]
"""What makes the cluster: ``ray up`` on AWS, ``ray up`` on machines that ssh reaches, or KubeRay."""

FILES: dict[Kind, tuple[str, ...]] = {
    "aws": ("cluster.yaml", "deploy/head.sh", "deploy/worker.sh"),
    "local": ("deploy/local.yaml", "deploy/head.sh", "deploy/worker.sh"),
    "kuberay": ("deploy/kuberay.yaml", "deploy/Dockerfile"),
}
"""The files that each kind needs, the first of which is the one that describes the cluster."""

PLACES: dict[Kind, dict[str, tuple[str, ...]]] = {
    "aws": {
        "region": ("region: us-west-2",),
        "storage": ("s3://YOUR-BUCKET/glow",),
        "machine": ("InstanceType: g5.xlarge",),
        "maximum": ("max_workers: 4",),
    },
    "local": {"storage": ("/srv/glow",)},
    "kuberay": {"storage": ("s3://YOUR-BUCKET/glow",), "maximum": ("maxReplicas: 4", '"max_workers": 4')},
}
"""The flags of each kind, and the texts that their values replace; a key and a colon at the start of a text stay."""

ALLOWED = {
    "region": (r"[a-z]+(-[a-z]+)+-\d", "the name of a region of AWS, such as eu-west-1"),
    "storage": (r"[a-z0-9]+:/(/[\w.-]+)+", "a bucket and a folder in it, such as s3://bucket/glow"),
    "folder": (r"(/[\w.-]+)+", "the absolute path of a folder that all machines share"),
    "machine": (r"[a-z0-9-]+\.[a-z0-9-]+", "a type of machine of AWS, such as g6.xlarge"),
    "maximum": (r"[1-9]\d*", "at least 1"),
}
"""What the value of each flag must look like, and the same in words; folder is --storage for local."""

CLONE = re.compile(
    r"^# The nodes install from these files.*\n(# .*\n)*|^  ~/glow/code/(?!deploy).*\n"
    r"|^WORKDIR /home/ray/code\n|^COPY .*\n",
    re.M,
)
"""Lines that are needed if the machines install from a clone."""


def write_cluster_files(kind: Kind, folder: Path, settings: dict[str, str], package: str | None = None) -> list[Path]:
    """Write the files of a cluster into a folder.

    Args:
        kind: what makes the cluster.
        folder: where to write; it is made if it is new.
        settings: values of the flags in `PLACES`, for those that were given.
        package: what pip installs on the machines. Without it: the version of glowctl that runs here.

    Returns:
        The paths of the files, the one that describes the cluster first.

    Raises:
        SpecError: for a setting that the kind does not have or that is malformed, or if one of the files exists.
    """
    for name, value in settings.items():
        if name not in PLACES[kind]:
            flags = " and ".join(f"--{known}" for known in PLACES[kind])
            raise SpecError(
                f"--{name} {value} has no use for {kind}, whose flags are {flags}",
                remedy=f"leave out --{name}",
                code="flags-exclude-each-other",
            )
        pattern, allowed = ALLOWED["folder" if (kind, name) == ("local", "storage") else name]
        if not re.fullmatch(pattern, value):
            raise SpecError(f"--{name} must be {allowed}, not {value}", remedy="correct it", code="cluster-setting")
    paths = [folder / name for name in FILES[kind]]
    for path in paths:
        if path.exists():
            raise SpecError(f"{path} exists", remedy="name another folder by --to", code="exists-already")
    for name, path in zip(FILES[kind], paths, strict=True):
        path.parent.mkdir(parents=True, exist_ok=True)
        text = _installed_from_index((_source() / name).read_text(encoding="utf-8"), package)
        path.write_text(_edited(kind, text, settings) if path == paths[0] else text, encoding="utf-8")
    return paths


def lines_to_edit(path: Path) -> list[int]:
    """Return the numbers of the lines of a file that are still to be edited."""
    return [n for n, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1) if "# EDIT" in line]


def _source() -> Path:
    """Return the folder with the files as the repository has them: in the wheel, or the clone itself."""
    installed = Path(__file__).with_name("files")
    return installed if installed.exists() else Path(__file__).parents[3]


def _edited(kind: Kind, text: str, settings: dict[str, str]) -> str:
    for name, value in settings.items():
        for place in PLACES[kind][name]:
            key = place[: place.rfind(": ") + 2] if ": " in place else ""
            text, found = re.subn(re.escape(place) + r"( #.*)?", key + value, text)
            assert found, f"{place} is in no line of the file for {kind}"
    return text


def _installed_from_index(text: str, package: str | None) -> str:
    """Return a file of the repository changed so that the machines need no clone, and have the Ray of this machine."""
    glowctl = f"glowctl=={version('glowctl')}"
    text = CLONE.sub("", text)
    text = text.replace("pip install -e '.[aws]'    ", "pip install 'glowctl[aws]'")
    for clone, extra in (('"$HOME/glow/code[aws]"', "[aws]"), ('"$HOME/glow/code"', ""), ("'.[aws]'", "[aws]")):
        text = text.replace(clone, f"'{package or glowctl.replace('==', f'{extra}==')}'")
    return re.sub(r"(ray==|rayVersion: |RAY_VERSION=)\d+\.\d+\.\d+", lambda found: found[1] + version("ray"), text)
