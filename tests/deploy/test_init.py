"""`glowctl cluster init` writes files that need no clone, which the programs that read them accept."""

import re
from importlib.metadata import version
from typing import get_args

import kubernetes_validate
import pytest
import yaml

from glowctl.cluster.init import FILES, PLACES, Kind, lines_to_edit, write_cluster_files
from glowctl.errors import SpecError
from tests.deploy.test_files import ROOT, check_ray_up

SETTINGS = {
    "aws": {"region": "eu-west-1", "storage": "s3://ours/flows", "machine": "g6.xlarge", "maximum": "9"},
    "local": {"storage": "/data/flows"},
    "kuberay": {"storage": "gs://ours/flows", "maximum": "9"},
}


def test_every_flag_of_every_kind_is_tried():
    assert {kind: set(places) for kind, places in PLACES.items()} == {kind: set(SETTINGS[kind]) for kind in SETTINGS}


@pytest.mark.parametrize("kind", get_args(Kind))
def test_the_values_of_the_flags_are_in_the_files_and_the_texts_that_they_replace_are_not(kind, tmp_path):
    first, *_ = write_cluster_files(kind, tmp_path, SETTINGS[kind])
    written = first.read_text()
    for name, value in SETTINGS[kind].items():
        assert value in written
        assert not any(place in written for place in PLACES[kind][name])
    assert 0 < len(lines_to_edit(first)) <= len(lines_to_edit(ROOT / FILES[kind][0]))


@pytest.mark.parametrize("kind", ["aws", "local"])
def test_ray_up_accepts_the_file_and_finds_all_that_it_copies(kind, tmp_path):
    first, *_ = write_cluster_files(kind, tmp_path, SETTINGS[kind])
    config = check_ray_up(yaml.safe_load(first.read_text()))
    assert config["file_mounts"] == {"~/.ray/auth_token": "~/.ray/auth_token", "~/glow/code/deploy": "deploy"}
    [install] = [command for command in config["setup_commands"] if "pip install --quiet 'glowctl" in command]
    assert f"=={version('glowctl')}'" in install
    assert f"ray=={version('ray')}" in install
    for command in config["head_start_ray_commands"] + config["worker_start_ray_commands"]:
        [script] = re.findall(r"~/glow/code/(\S+\.sh)", command)
        assert (tmp_path / script).read_text() == (ROOT / script).read_text()
    if kind == "aws":
        gpu = config["available_node_types"]["gpu"]
        assert (config["provider"]["region"], config["max_workers"], gpu["max_workers"]) == ("eu-west-1", 9, 9)
        assert gpu["node_config"]["InstanceType"] == "g6.xlarge"


def test_kubernetes_accepts_the_manifests_and_the_image_needs_no_clone(tmp_path):
    first, dockerfile = write_cluster_files(
        "kuberay", tmp_path, SETTINGS["kuberay"], package="glowctl @ https://x/y.whl"
    )
    found = {each["kind"]: each for each in yaml.safe_load_all(first.read_text())}
    kubernetes_validate.validate(found["ConfigMap"], desired_version="1.33", strict=True)
    assert found["ConfigMap"]["data"]["GLOW_STORAGE"] == "gs://ours/flows"
    assert found["RayCluster"]["spec"]["workerGroupSpecs"][0]["maxReplicas"] == 9
    assert '"max_workers": 9' in found["ConfigMap"]["data"]["GLOW_NODE_TYPES"]
    assert "COPY" not in dockerfile.read_text()
    assert "pip install --no-cache-dir 'glowctl @ https://x/y.whl' \"ray==${RAY_VERSION}\"" in dockerfile.read_text()


def test_files_that_exist_are_kept(tmp_path):
    (tmp_path / "deploy").mkdir()
    (tmp_path / "deploy" / "head.sh").write_text("mine")
    with pytest.raises(SpecError, match=r"head\.sh exists: name another folder by --to"):
        write_cluster_files("aws", tmp_path, {})
    assert not (tmp_path / "cluster.yaml").exists()
