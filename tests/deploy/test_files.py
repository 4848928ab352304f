"""`cluster.yaml` and `deploy/` are accepted by the programs that read them, and agree. No cluster is started."""

import copy
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from packaging.requirements import Requirement

from glowctl.ray_runtime.connection import STOP_PATIENCE_S

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
RAY_UP = [ROOT / "cluster.yaml", DEPLOY / "local.yaml"]
SCRIPTS = [DEPLOY / "head.sh", DEPLOY / "worker.sh"]
FILES = [*RAY_UP, DEPLOY / "kuberay.yaml", DEPLOY / "Dockerfile", *SCRIPTS]

# The fields of KubeRay's types, from its API reference for 1.6. Pod templates are Kubernetes' own.
KUBERAY = {
    "RayCluster": "rayVersion authOptions enableInTreeAutoscaling autoscalerOptions headGroupSpec workerGroupSpecs "
    "headServiceAnnotations gcsFaultToleranceOptions managedBy suspend upgradeStrategy",
    "authOptions": "mode secretName enableK8sTokenAuth",
    "autoscalerOptions": "idleTimeoutSeconds upscalingMode version image imagePullPolicy resources env envFrom "
    "volumeMounts securityContext",
    "headGroupSpec": "serviceType headService enableIngress rayStartParams template resources labels",
    "workerGroupSpecs": "groupName replicas minReplicas maxReplicas idleTimeoutSeconds numOfHosts rayStartParams "
    "template suspend resources labels scaleStrategy",
    "RayJob": "clusterSelector entrypoint runtimeEnvYAML jobId metadata submissionMode submitterPodTemplate "
    "submitterConfig activeDeadlineSeconds backoffLimit entrypointNumCpus entrypointNumGpus entrypointResources "
    "rayClusterSpec shutdownAfterJobFinishes ttlSecondsAfterFinished deletionStrategy managedBy suspend",
}


def by_name(path: Path) -> str:
    return path.name


# What `ray up` reads


def check_ray_up(config: dict) -> dict:
    from ray.autoscaler._private.util import prepare_config, validate_config

    prepared = prepare_config(config)
    validate_config(prepared)
    return prepared


@pytest.mark.parametrize("path", RAY_UP, ids=by_name)
def test_ray_up_accepts_the_file(path):
    config = check_ray_up(yaml.safe_load(path.read_text()))
    for source in config["file_mounts"].values():
        assert source == "~/.ray/auth_token" or (ROOT / source).exists()
    for command in config["head_start_ray_commands"] + config["worker_start_ray_commands"]:
        [script] = re.findall(r"~/glow/code/(\S+\.sh)", command)
        assert (ROOT / script).is_file()


@pytest.mark.parametrize(
    ("path", "where"),
    [(RAY_UP[0], ()), (RAY_UP[0], ("auth",)), (RAY_UP[0], ("available_node_types", "gpu")), (RAY_UP[1], ())],
    ids=["cluster", "cluster-auth", "cluster-gpu", "local"],
)
def test_ray_up_refuses_a_key_that_it_does_not_know(path, where):
    config = yaml.safe_load(path.read_text())
    inner = config
    for key in where:
        inner = inner[key]
    inner["idle_timeout_minuts"] = 5
    with pytest.raises(jsonschema.ValidationError, match="idle_timeout_minuts"):
        check_ray_up(config)


def test_the_cluster_on_aws_costs_nothing_but_its_head_without_work():
    config = check_ray_up(yaml.safe_load(RAY_UP[0].read_text()))
    types = dict(config["available_node_types"])
    assert types.pop(config["head_node_type"])["resources"] == {"CPU": 0}
    for kind in types.values():
        assert kind["min_workers"] == 0
        assert kind["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}


# What Kubernetes reads


def manifests() -> dict[str, dict]:
    return {document["kind"]: document for document in yaml.safe_load_all((DEPLOY / "kuberay.yaml").read_text())}


def check_kubernetes(documents: dict[str, dict]) -> None:
    def known(kind: str, fields: dict) -> None:
        assert set(fields) <= set(KUBERAY[kind].split()), kind

    for kind, document in documents.items():
        if kind not in KUBERAY:
            kubernetes_validate.validate(document, "1.33", strict=True)
            continue
        assert set(document) == {"apiVersion", "kind", "metadata", "spec"}
        assert document["apiVersion"] == "ray.io/v1"
        known(kind, document["spec"])
    cluster = documents["RayCluster"]["spec"]
    known("authOptions", cluster["authOptions"])
    known("autoscalerOptions", cluster["autoscalerOptions"])
    known("headGroupSpec", cluster["headGroupSpec"])
    for group in cluster["workerGroupSpecs"]:
        known("workerGroupSpecs", group)
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, **group["template"]}
        kubernetes_validate.validate(pod, "1.33", strict=True)


def test_kubernetes_accepts_the_manifests():
    check_kubernetes(manifests())


@pytest.mark.parametrize(
    "where",
    [
        ("RayCluster", "spec", "workerGroupSpecs", 0),
        ("RayCluster", "spec", "headGroupSpec", "template", "spec", "containers", 1),
    ],
    ids=lambda where: ".".join(map(str, where)),
)
def test_kubernetes_refuses_a_field_that_it_does_not_know(where):
    documents = copy.deepcopy(manifests())
    inner: Any = documents
    for key in where:
        inner = inner[key]
    inner["imagePulPolicy"] = "Always"
    with pytest.raises((AssertionError, kubernetes_validate.ValidationError)):
        check_kubernetes(documents)


def test_kuberay_adds_the_workers_that_the_jobs_are_told_of():
    from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr
    from ray.autoscaler._private.util import validate_config

    documents = manifests()
    cluster = documents["RayCluster"]
    cluster["metadata"]["namespace"] = "default"
    config = _derive_autoscaling_config_from_ray_cr(cluster)
    validate_config(config)
    head = config["available_node_types"].pop("headgroup")
    assert head["resources"]["CPU"] == 0
    told = json.loads(documents["ConfigMap"]["data"]["GLOW_NODE_TYPES"])
    assert set(told) == set(config["available_node_types"])
    for name, kind in config["available_node_types"].items():
        assert kind["min_workers"] == 0
        assert kind["max_workers"] == told[name]["max_workers"]
        assert told[name]["resources"].items() <= kind["resources"].items()
    assert documents["RayJob"]["spec"]["clusterSelector"]["ray.io/cluster"] == cluster["metadata"]["name"]
    assert cluster["spec"]["authOptions"]["mode"] == "token"


def test_jobs_that_kubernetes_submits_have_the_time_of_other_jobs_to_record_their_end():
    assert manifests()["ConfigMap"]["data"]["RAY_JOB_STOP_WAIT_TIME_S"] == str(STOP_PATIENCE_S)


# What the files have in common


def test_one_ray_version_is_installed_everywhere():
    pins = {}
    for path in set(FILES) - set(SCRIPTS):
        [pins[path.name]] = re.findall(r"(?:ray==|rayVersion: |RAY_VERSION=)(\d+\.\d+\.\d+)", path.read_text())
    assert len(set(pins.values())) == 1, pins
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    [needed] = [r for r in map(Requirement, project["dependencies"]) if r.name == "ray"]
    assert needed.specifier.contains(pins["Dockerfile"])


def test_every_file_that_the_installation_reads_is_there():
    """A license file that is missing is refused by hatchling."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    read = {"pyproject.toml", project["readme"], *project["license-files"]}
    for path in RAY_UP:
        mounts = yaml.safe_load(path.read_text())["file_mounts"]
        assert {mounts.get(f"~/glow/code/{name}") for name in read} == read, path
    copied = re.findall(r"^COPY --chown=\S+ (.+) \./$", (DEPLOY / "Dockerfile").read_text(), re.M)
    assert set(" ".join(copied).split()) == read


def test_every_variable_is_read():
    code = "".join(path.read_text() for folder in ("jobs", "glow") for path in sorted((ROOT / folder).rglob("*.py")))
    shell = "".join(path.read_text() for path in SCRIPTS)
    set_here = set(re.findall(r"GLOW_[A-Z_]+", "".join(path.read_text() for path in FILES)))
    read = {name for name in set_here if f'"{name}"' in code or re.search(rf"\$\{{?{name}\b", shell)}
    assert set_here == read
    assert {"GLOW_STORAGE", "GLOW_NODE_TYPES", "GLOW_DATABASE"} <= read


SECRET = re.compile(
    r"AKIA[0-9A-Z]{16}|-----BEGIN|\b\d{12}\b|://[^/\s]+:[^/\s]+@|(password|secret|token)['\"]?\s*[=:]\s*['\"]?\w{6,}",
    re.I,
)


@pytest.mark.parametrize("path", FILES, ids=by_name)
def test_nothing_is_secret_and_nothing_is_open_to_all(path):
    text = path.read_text()
    assert not SECRET.search(text)
    assert "0.0.0.0" not in text
    assert "::" not in text


# The scripts


def ray_start_options() -> set[str]:
    from ray.scripts.scripts import start as ray_start

    return {name for param in ray_start.params for name in (*param.opts, *param.secondary_opts)}


def mlflow_server_options() -> set[str]:
    asked = [sys.executable, "-m", "mlflow", "server", "--help"]  # importing it warns
    help_text = subprocess.run(asked, capture_output=True, text=True, check=True, timeout=120).stdout
    return set(re.findall(r"--[a-z-]+", help_text))


def flags(script: Path, command: str) -> set[str]:
    """The long flags in a script's lines that have this text, which are all for that command."""
    lines = re.sub(r"\\\n", " ", script.read_text()).splitlines()
    given = [line.partition(command)[2] for line in lines if command in line and not line.startswith("#")]
    return set(re.findall(r"--[a-z-]+", " ".join(given)))


@pytest.mark.slow
def test_ray_and_mlflow_know_every_flag():
    head, worker = SCRIPTS
    start = flags(head, "ray start") | flags(head, "autoscaling=(")
    serve = flags(head, "mlflow server")
    assert {"--head", "--system-config", "--autoscaling-config"} <= start <= ray_start_options()
    assert {"--host", "--allowed-hosts", "--artifacts-destination"} <= serve <= mlflow_server_options()
    assert flags(worker, "ray start") == {"--address"} <= ray_start_options()
    cluster = manifests()["RayCluster"]["spec"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        assert {f"--{name}" for name in group["rayStartParams"]} <= ray_start_options()
    sidecar = cluster["headGroupSpec"]["template"]["spec"]["containers"][1]
    assert {argument.split("=")[0] for argument in sidecar["args"]} == serve


def test_ray_knows_the_health_checks_and_they_notice_a_lost_host_within_10_s():
    from ray import _raylet

    config = vars(_raylet)["Config"]  # Ray's types do not have it
    written = re.search(r"health='(.*?)'", SCRIPTS[0].read_text(), re.S)
    assert written
    health = json.loads(written[1])
    for name in health:
        assert hasattr(config, name)
    assert not hasattr(config, "health_check_periods_ms")
    checks = health["health_check_failure_threshold"]
    assert checks * (health["health_check_period_ms"] + health["health_check_timeout_ms"]) < 10_000
    head = manifests()["RayCluster"]["spec"]["headGroupSpec"]
    assert json.loads(head["rayStartParams"]["system-config"].strip("'")) == health


@pytest.mark.parametrize("path", SCRIPTS, ids=by_name)
def test_the_shell_and_its_linter_accept_the_script(path):
    assert os.access(path, os.X_OK)
    subprocess.run(["bash", "-n", path], check=True, timeout=10)
    linter = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    assert linter, "shellcheck is not installed"
    done = subprocess.run([linter, path], capture_output=True, text=True, check=False, timeout=30)
    assert (done.returncode, done.stdout) == (0, "")
