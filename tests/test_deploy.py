"""cluster.yaml and deploy/: what reads them accepts them, and the scripts do what they say.

No cluster is started: in the scripts' tests `ray`, `mlflow`, `curl` and `sleep` are stand-ins on the PATH.
"""

import copy
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tomllib
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import jsonschema
import kubernetes_validate
import psutil
import pytest
import yaml
from packaging.requirements import Requirement
from ray._raylet import Config
from ray.autoscaler._private.commands import warn_about_bad_start_command
from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.scripts.scripts import start as ray_start

from tests.jobs.command_line import wait_until

ROOT = Path(__file__).parents[1]
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


@pytest.mark.parametrize("path", RAY_UP, ids=by_name)
def test_ray_up_warns_of_no_start_command(path, capfd):
    commands = yaml.safe_load(path.read_text())["head_start_ray_commands"]
    warn_about_bad_start_command(commands)
    assert capfd.readouterr() == ("", "")
    warn_about_bad_start_command(["bash head.sh"])
    assert "ray start" in "".join(capfd.readouterr())


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
        ("RayJob", "spec"),
        ("RayCluster", "spec"),
        ("RayCluster", "spec", "headGroupSpec"),
        ("RayCluster", "spec", "headGroupSpec", "template", "spec"),
        ("RayCluster", "spec", "headGroupSpec", "template", "spec", "containers", 1),
        ("RayCluster", "spec", "workerGroupSpecs", 0),
        ("PersistentVolumeClaim", "spec", "resources"),
    ],
    ids=lambda where: ".".join(map(str, where)),
)
def test_kubernetes_refuses_a_field_that_it_does_not_know(where):
    documents = copy.deepcopy(manifests())
    inner = documents
    for key in where:
        inner = inner[key]
    inner["imagePulPolicy"] = "Always"
    with pytest.raises((AssertionError, kubernetes_validate.ValidationError)):
        check_kubernetes(documents)


def test_kuberay_adds_the_workers_that_the_jobs_are_told_of():
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


# What the files have in common


def test_one_ray_version_is_installed_everywhere():
    pins = {}
    for path in set(FILES) - set(SCRIPTS):
        [pins[path.name]] = re.findall(r"(?:ray==|rayVersion: |RAY_VERSION=)(\d+\.\d+\.\d+)", path.read_text())
    assert len(set(pins.values())) == 1, pins
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    [needed] = [r for r in map(Requirement, project["dependencies"]) if r.name == "ray"]
    assert needed.specifier.contains(pins["Dockerfile"])


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


@pytest.mark.parametrize("line", ["postgresql://me:pass@db/x", "password: hunter22", "arn:aws:iam:123456789012:role/x"])
def test_a_secret_would_be_found(line):
    assert SECRET.search(line)


# The scripts


def ray_start_options() -> set[str]:
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
    written = re.search(r"health='(.*?)'", SCRIPTS[0].read_text(), re.S)
    health = json.loads(written[1])
    for name in health:
        assert hasattr(Config, name)
    assert not hasattr(Config, "health_check_periods_ms")
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


STAND_INS = {
    "ray": r"""printf '%s\x1f' "$@" >>~/ray.calls; printf '\x1e' >>~/ray.calls; env -0 >~/ray.env""",
    # It answers until it ends, after a while if it is slow, and never if it is broken.
    "mlflow": r"""printf '%s\x1f' "$@" >>~/mlflow.calls; printf '\x1e' >>~/mlflow.calls; env -0 >~/mlflow.env
[[ -e ~/broken ]] && exit 3
[[ -e ~/slow ]] && /bin/sleep 0.5
echo $$ >~/answers; exec /bin/sleep 600""",
    "curl": r"""[[ -e ~/answers ]] && kill -0 "$(cat ~/answers)" 2>/dev/null""",
    "sleep": "exec /bin/sleep 0.01",
}


class Host:
    """A machine of a cluster: a home with the token, and the stand-ins."""

    def __init__(self, folder: Path) -> None:
        self.home = folder / "home"
        self.storage = folder / "storage"
        self.bin = folder / "bin"
        self.token = self.home / ".ray" / "auth_token"
        for made in (self.token.parent, self.storage, self.bin):
            made.mkdir(parents=True)
        self.token.write_text("0123")
        self.token.chmod(0o644)
        for name, text in STAND_INS.items():
            (self.bin / name).write_text(f"#!/usr/bin/env bash\n{text}\n")
            (self.bin / name).chmod(0o755)

    def run(self, script: str, *arguments: str, **variables: str | None) -> subprocess.CompletedProcess[str]:
        given = {"HOME": str(self.home), "PATH": f"{self.bin}:/usr/bin:/bin", "OMP_NUM_THREADS": "1"}
        given |= {"GLOW_STORAGE": str(self.storage), "RAY_HEAD_IP": "192.0.2.1"}
        return subprocess.run(
            ["bash", DEPLOY / script, *arguments],
            env={name: value for name, value in (given | variables).items() if value is not None},
            cwd=self.home,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )

    def calls(self, name: str) -> list[list[str]]:
        path = self.home / f"{name}.calls"
        if not path.exists():
            return []
        return [call.split("\x1f")[:-1] for call in path.read_text().split("\x1e")[:-1]]

    def environment(self, name: str) -> dict[str, str]:
        pairs = (self.home / f"{name}.env").read_text().split("\0")
        return dict(pair.split("=", 1) for pair in pairs if pair)

    def processes(self) -> list[psutil.Process]:
        """What lives of what was started here."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if process.environ().get("HOME") == str(self.home) and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found


@pytest.fixture
def host(tmp_path):
    host = Host(tmp_path)
    yield host
    while host.processes():
        for process in host.processes():
            with suppress(psutil.NoSuchProcess):
                process.kill()


@pytest.mark.parametrize(
    ("script", "missing", "message"),
    [
        ("head.sh", "GLOW_STORAGE", "GLOW_STORAGE is not set: give a folder"),
        ("head.sh", "token", "there is no ~/.ray/auth_token here: make one"),
        ("worker.sh", "RAY_HEAD_IP", "RAY_HEAD_IP is not set: give the address"),
        ("worker.sh", "token", "there is no ~/.ray/auth_token here: copy"),
    ],
)
def test_a_script_says_in_one_sentence_what_is_missing(host, script, missing, message):
    if missing == "token":
        host.token.unlink()
    done = host.run(script, **({} if missing == "token" else {missing: None}))
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith(message)
    assert done.stderr.count("\n") == 1
    assert host.calls("ray") == host.calls("mlflow") == []


@pytest.mark.parametrize("storage", ["s3://YOUR-BUCKET/glow", "/no/such/folder", "relative"])
def test_the_head_refuses_a_storage_that_cannot_be_meant(host, storage):
    done = host.run("head.sh", GLOW_STORAGE=storage)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert done.stderr.startswith("GLOW_STORAGE")
    assert host.calls("ray") == host.calls("mlflow") == []


def test_the_head_starts_mlflow_and_then_ray(host):
    bootstrap = host.home / "ray_bootstrap_config.yaml"
    bootstrap.touch()
    done = host.run("head.sh", "--num-cpus", "0", GLOW_STORAGE="s3://bucket/glow/")
    assert done.returncode == 0, done.stderr
    [serve] = host.calls("mlflow")
    assert serve[:5] == ["server", "--host", "127.0.0.1", "--port", "5000"]
    assert serve[serve.index("--artifacts-destination") + 1] == "s3://bucket/glow/mlflow"
    assert host.environment("mlflow")["MLFLOW_BACKEND_STORE_URI"] == f"sqlite:///{host.home}/glow/mlflow.db"
    stop, start = host.calls("ray")
    assert stop == ["stop"]
    assert start[:6] == ["start", "--head", "--port", "6379", "--dashboard-host", "127.0.0.1"]
    assert start[6] == "--system-config"
    assert json.loads(start[7])["health_check_period_ms"] == 1000
    assert start[8:] == ["--autoscaling-config", str(bootstrap), "--num-cpus", "0"]
    inherited = host.environment("ray")
    assert inherited["RAY_AUTH_MODE"] == "token"
    assert inherited["MLFLOW_TRACKING_URI"] == "http://127.0.0.1:5000"
    assert inherited["GLOW_STORAGE"] == "s3://bucket/glow/"
    assert "OMP_NUM_THREADS" not in inherited
    assert host.token.stat().st_mode & 0o777 == 0o600


def test_the_head_started_again_leaves_mlflow_alone(host):
    for _ in range(2):
        assert host.run("head.sh").returncode == 0
    assert len(host.calls("mlflow")) == 1
    assert [call[0] for call in host.calls("ray")] == ["stop", "start"] * 2
    assert "--autoscaling-config" not in host.calls("ray")[1]


def test_an_mlflow_that_is_starting_is_not_started_a_second_time(host):
    (host.home / "slow").touch()
    with ThreadPoolExecutor() as pool:
        done = list(pool.map(host.run, ["head.sh", "head.sh"]))
    assert [each.returncode for each in done] == [0, 0]
    assert len(host.calls("mlflow")) == 1


def test_the_head_takes_an_mlflow_that_someone_else_started(host):
    (host.home / "answers").write_text(str(os.getpid()))
    assert host.run("head.sh").returncode == 0
    assert host.calls("mlflow") == []


def test_mlflow_is_started_again_when_it_has_ended(host):
    assert host.run("head.sh").returncode == 0
    os.kill(int((host.home / "answers").read_text()), signal.SIGKILL)
    wait_until(lambda: len(host.calls("mlflow")) == 2)


def test_an_mlflow_that_does_not_start_is_the_heads_error_and_is_not_kept(host):
    (host.home / "broken").touch()
    done = host.run("head.sh")
    assert (done.returncode, done.stderr) == (1, "the MLflow server did not start: see ~/glow/mlflow.log\n")
    assert host.calls("ray") == [["stop"]]
    wait_until(lambda: not host.processes())
    (host.home / "broken").unlink()
    assert host.run("head.sh").returncode == 0


def test_the_databases_password_is_for_mlflow_alone(host):
    url = "postgresql://glow:hush@db.example/glow"
    assert host.run("head.sh", GLOW_DATABASE=url).returncode == 0
    assert host.environment("mlflow")["MLFLOW_BACKEND_STORE_URI"] == url
    processes = host.processes()
    assert len(processes) >= 3
    assert not [line for process in processes for line in process.cmdline() if "hush" in line]
    assert "hush" not in str(host.environment("ray")) + (host.home / "glow" / "mlflow.log").read_text()


def test_a_worker_joins_its_head(host):
    assert host.run("worker.sh", "--num-cpus", "2").returncode == 0
    assert host.calls("ray") == [["stop"], ["start", "--address", "192.0.2.1:6379", "--num-cpus", "2"]]
    inherited = host.environment("ray")
    assert inherited["RAY_AUTH_MODE"] == "token"
    assert "OMP_NUM_THREADS" not in inherited
    assert host.token.stat().st_mode & 0o777 == 0o600
