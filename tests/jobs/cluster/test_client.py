"""`glowctl.cluster.client` and `glowctl.cluster.submission` without Ray, with a stand-in for its dashboard."""

import errno
import json
import platform
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
import requests
from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient, JobType

from glowctl.cluster import client as module
from glowctl.cluster import submission
from glowctl.cluster.client import Cluster, _Lines
from glowctl.cluster.submission import _name, exit_code, follow, has_trials, sent, submit
from glowctl.display.displays import Wire
from glowctl.display.events import Noted
from glowctl.errors import JobError, SpecError
from glowctl.specs.ablation import AblateSpec, make_ablate_spec
from glowctl.specs.base import validated
from glowctl.specs.evaluation import InterpolateSpec, OodSpec
from glowctl.specs.request import PackSpec, Request
from glowctl.specs.training import TrainSpec, make_train_spec
from glowctl.system.environment import address_of

SAME = {"rayVersion": metadata.version("ray"), "pythonVersion": platform.python_version()}


@pytest.fixture
def dashboard(monkeypatch):
    """Starts a server that answers every GET with this status and body, and keeps the requests' tokens."""
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    monkeypatch.delenv("RAY_AUTH_TOKEN_PATH", raising=False)
    monkeypatch.setattr(module, "TOKEN_FILE", "/nonexistent/token")
    servers = []

    def start(status: int, body: str) -> tuple[str, list[str | None]]:
        tokens = []

        class Answer(BaseHTTPRequestHandler):
            def do_GET(self):
                tokens.append(self.headers.get("Authorization"))
                self.send_response(status)
                self.end_headers()
                self.wfile.write(body.encode())

            def log_message(self, *_):
                """Not on the screen."""

        server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{server.server_port}", tokens

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def metadata_of(**changes: str) -> str:
    return json.dumps({"result": True, "data": SAME | changes})


@pytest.mark.parametrize(
    ("status", "body", "code", "facts"),
    [
        (401, "", "token-missing", ["/nonexistent/token", "$RAY_AUTH_TOKEN"]),
        (403, "", "token-refused", ["/nonexistent/token"]),
        (200, "<html>", "not-a-dashboard", []),
        (200, '{"data": {}}', "not-a-dashboard", []),
        (404, "", "not-a-dashboard", []),
        (200, metadata_of(rayVersion="2.1.0"), "version-mismatch", ["Ray 2.1.0", ">=2.56"]),
        (200, metadata_of(rayVersion="3.0.0"), "version-mismatch", ["Ray 3.0.0", "<3"]),
        (200, metadata_of(pythonVersion="3.8.1"), "version-mismatch", ["Python 3.8.1", ">=3.11"]),
    ],
)
def test_a_cluster_that_cannot_take_jobs_is_one_sentence(dashboard, status, body, code, facts):
    address, _ = dashboard(status, body)
    with pytest.raises(JobError) as raised:
        Cluster(address)
    said = str(raised.value)
    assert raised.value.code == code
    assert raised.value.remedy
    assert [fact for fact in [address, *facts] if fact not in said] == []
    assert "\n" not in said


def test_a_cluster_that_does_not_answer_is_named(dashboard):
    with pytest.raises(JobError) as raised:
        Cluster("http://127.0.0.1:9")
    assert raised.value.code == "cluster-does-not-answer"
    assert "http://127.0.0.1:9" in str(raised.value)
    assert "--address" in raised.value.remedy


@pytest.mark.parametrize("other", [{"rayVersion": "2.56.0"}, {"rayVersion": "2.99.1"}, {"pythonVersion": "3.13.0"}])
def test_a_cluster_may_have_another_minor_version(dashboard, monkeypatch, other):
    monkeypatch.setattr(Cluster, "_connect", lambda self: None)
    address, _ = dashboard(200, metadata_of(**other))
    facts = Cluster(address).facts
    assert {"rayVersion": facts.ray, "pythonVersion": facts.python} == SAME | other


def test_the_token_is_looked_for_where_ray_does(dashboard, monkeypatch, tmp_path):
    monkeypatch.setattr(Cluster, "_connect", lambda self: None)
    address, tokens = dashboard(200, metadata_of())
    Cluster(address)
    default, given = tmp_path / "default", tmp_path / "given"
    default.write_text("one\n")
    monkeypatch.setattr(module, "TOKEN_FILE", str(default))
    Cluster(address)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(given))
    with pytest.raises(JobError, match=str(given)) as raised:
        Cluster(address)
    assert raised.value.code == "token-missing"
    given.write_text("two")
    Cluster(address)
    monkeypatch.setenv("RAY_AUTH_TOKEN", "three")
    Cluster(address)
    assert tokens == [None, "Bearer one", "Bearer two", "Bearer three"]


@pytest.mark.parametrize(
    ("given", "variable", "found"),
    [
        (None, None, None),
        ("local", "http://a:1", None),
        (None, "local", None),
        (None, "http://a:1/", "http://a:1"),
        ("https://b", "http://a:1", "https://b"),
    ],
)
def test_where_a_cluster_is_said_to_be(monkeypatch, given, variable, found):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if variable is not None:
        monkeypatch.setenv("RAY_ADDRESS", variable)
    assert address_of(given) == found


@pytest.mark.parametrize("address", ["10.0.0.1:6379", "auto", "ray://head:10001"])
def test_addresses_of_another_kind_are_refused(monkeypatch, address):
    with pytest.raises(SpecError, match=f"--address {address}") as error:
        address_of(address)
    assert error.value.code == "ray-address"
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(SpecError, match=rf"\$RAY_ADDRESS {address}"):
        address_of(None)


def test_in_a_job_of_a_cluster_its_own_ray_is_meant(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", '{"metadata": {"job_submission_id": "x"}}')
    assert address_of(None) is None


def test_lines_come_whole_and_once():
    seen: list[str] = []
    lines = _Lines(seen.append)
    for piece in ("a\nb", "b\n", "c"):
        lines.take(piece)
    assert seen == ["a", "bb"]
    lines.again()  # the connection was lost, and the text comes from its start
    for piece in ("a\nbb\ncc", "\nd\ne"):
        lines.take(piece)
    assert seen == ["a", "bb", "cc", "d"]
    lines.again()
    lines.take("a\nbb\ncc\nd\ne")
    lines.close()
    assert seen == ["a", "bb", "cc", "d", "e"]


def a_cluster(monkeypatch, tails, infos, logs=("a\nb\nc\nd\n",)):
    """Return a `Cluster` whose job writes one text of `tails` per connection, and has the states `infos` in turn.

    `logs` are the answers to requests for all that the job has written. An exception in any of them is raised.
    """
    monkeypatch.setattr(module, "RETRY_S", 0.01)
    monkeypatch.setattr(module, "POLL_S", 0.01)
    tails, infos, logs = iter(tails), iter(infos), iter(logs)

    async def tail_job_logs(job):
        text = next(tails)
        for part in text if isinstance(text, list) else [text]:
            if isinstance(part, Exception):
                raise part
            yield part

    def info(self, job):
        found = next(infos)
        if isinstance(found, Exception):
            raise found
        return found

    def get(self, path):
        assert path == "j-1/logs"
        found = next(logs)
        if isinstance(found, Exception):
            raise found
        return {"logs": found}

    monkeypatch.setattr(Cluster, "info", info)
    monkeypatch.setattr(Cluster, "_get", get)
    monkeypatch.setattr(Cluster, "_tail_until_end", lambda self, job, lines: self._tail(job, lines))
    made = Cluster.__new__(Cluster)  # its __init__ connects to a dashboard
    made.address = "http://a"
    made._client = cast(JobSubmissionClient, SimpleNamespace(tail_job_logs=tail_job_logs))
    return made


def job(status: str, code: int | None = None, message: str = "") -> JobDetails:
    return JobDetails(
        type=JobType.SUBMISSION,
        submission_id="j-1",
        status=JobStatus(status),
        entrypoint="glowctl",
        message=message,
        driver_exit_code=code,
    )


def test_a_connection_that_is_lost_is_made_again_and_no_line_is_lost_or_seen_twice(monkeypatch):
    away = module._Away("away")
    tails = [["a\n", ConnectionError("cut")], ConnectionError("cut"), "a\nb\n", "a\nb\nc\n"]
    infos = [job("RUNNING"), away, away, job("RUNNING"), job("SUCCEEDED")]
    seen: list[str] = []
    assert a_cluster(monkeypatch, tails, infos).follow("j-1", seen.append).status.value == "SUCCEEDED"
    assert seen == ["a", "b", "c", "d"]


def test_a_connection_that_stays_lost_leaves_the_job_to_itself(monkeypatch):
    monkeypatch.setattr(module, "PATIENCE_S", 0.05)
    away = [module._Away("away")] * 100
    followed = a_cluster(monkeypatch, [ConnectionError()] * 100, [job("RUNNING"), *away])
    with pytest.raises(JobError) as raised:
        followed.follow("j-1", print)
    assert raised.value.code == "connection-lost"
    assert "glowctl logs -f j-1" in raised.value.remedy


@pytest.mark.parametrize(
    ("logs", "shown"),
    [
        ([requests.ConnectionError("cut"), requests.Timeout("slow"), "a\nb\n"], ["a", "b"]),
        ([RuntimeError("Request failed with status code 500: no disk.")], ["a"]),
    ],
)
def test_a_job_that_has_succeeded_has_so_even_if_its_last_lines_are_lost(monkeypatch, logs, shown):
    seen: list[str] = []
    followed = a_cluster(monkeypatch, ["a\n"], [job("RUNNING"), job("SUCCEEDED")], logs)
    assert followed.follow("j-1", seen.append).status.value == "SUCCEEDED"
    assert seen == shown


def test_a_job_is_waited_for_while_the_connection_is_lost_for_a_while(monkeypatch):
    away = module._Away("away")
    waited = a_cluster(monkeypatch, [], [job("RUNNING"), away, away, job("SUCCEEDED")])
    assert waited.wait("j-1").status.value == "SUCCEEDED"
    monkeypatch.setattr(module, "PATIENCE_S", 0.05)
    with pytest.raises(JobError, match="away"):
        a_cluster(monkeypatch, [], [away] * 100).wait("j-1")


class Unread:
    """A display whose reader has closed the pipe."""

    def __enter__(self):
        return self.show

    def __exit__(self, *exception):
        """Nothing to do."""

    def show(self, event):
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")


def test_a_closed_pipe_ends_the_following_of_a_job(monkeypatch):
    event = Wire().text(Noted("one image is grey"))
    followed = a_cluster(monkeypatch, [f"{event}\n"] * 100, [job("RUNNING")] * 100)
    with pytest.raises(BrokenPipeError), Unread() as show:
        follow(followed, "j-1", show)


def test_a_closed_pipe_does_not_change_the_exit_code_of_a_job_that_is_submitted(monkeypatch):
    event = Wire().text(Noted("one image is grey"))
    cluster = a_cluster(monkeypatch, [f"{event}\n"], [job("RUNNING"), job("FAILED", 2)], [f"{event}\n"])
    monkeypatch.setattr(Cluster, "submit", lambda *_: "j-1")
    monkeypatch.setattr(submission, "Cluster", lambda address: cluster)
    monkeypatch.setattr(submission, "check", lambda *_: SimpleNamespace(problems=()))
    assert submit(Request.of("train", make_train_spec("smoke", {})), Unread(), "http://a") == 2


def test_a_jobs_end_is_the_commands_exit_code():
    assert exit_code(job("SUCCEEDED", 0)) == 0
    assert exit_code(job("STOPPED")) == 143
    assert exit_code(job("FAILED", 1)) == 1
    assert exit_code(job("FAILED", 2)) == 2
    for code, message, fact in ((-9, "", "-9"), (None, "no room\nat all", "(no room)")):
        with pytest.raises(JobError) as raised:
            exit_code(job("FAILED", code, message))
        assert raised.value.code == "job-failed"
        assert fact in str(raised.value)
        assert "glowctl logs j-1" in raised.value.remedy


@pytest.fixture
def here(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return tmp_path


def test_what_is_sent_means_the_same_on_another_machine(here, monkeypatch):
    spec = make_train_spec("smoke", {"dataset": "folder:photos", "data_root": "data", "output": "out"})
    request, files = sent(Request.of("train", spec))
    told = request.specs["train"]
    assert isinstance(told, TrainSpec)
    assert (told.dataset, told.data_root) == (f"folder:{here}/photos", f"{here}/data")
    assert told.output == "out"  # which is under the cluster's storage
    assert told.tracking_uri is None  # the cluster's own
    assert files == {}
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracker:5000")
    request, _ = sent(Request.of("ablate", make_ablate_spec("smoke", {"permutations": "all"})))
    ablation = request.specs["ablate"]
    assert isinstance(ablation, AblateSpec)
    assert ablation.train.tracking_uri == "http://tracker:5000"
    request, _ = sent(Request(do="resume_training", run="x", changes={"tracking_uri": "sqlite:///here.db"}))
    assert request.changes["tracking_uri"] == f"sqlite:///{here}/here.db"
    (here / "model").mkdir()
    given = validated(OodSpec, {"model": "model", "background_model": "model", "ood_datasets": "noise,folder:odd"})
    request, _ = sent(Request.of("evaluate", given))
    ood = request.specs["ood"]
    assert isinstance(ood, OodSpec)
    assert ood.model == ood.background_model == str(here / "model")
    assert ood.ood_datasets == ("noise", f"folder:{here}/odd")
    given = validated(OodSpec, {"encoder": "file:network.pt", "encoder_weights": "weights.pth"})
    (request, _), (named, _) = (
        sent(Request.of("evaluate", each)) for each in (given, given.model_copy(update={"encoder": "timm:resnet18"}))
    )
    found = [each.specs["ood"].model_dump() for each in (request, named)]
    assert [each["encoder"] for each in found] == [f"file:{here}/network.pt", "timm:resnet18"]
    assert found[0]["encoder_weights"] == f"{here}/weights.pth"


@pytest.mark.parametrize("uri", [None, "http://tracker:5000"])
def test_a_packing_is_sent_with_absolute_paths_and_no_store(here, monkeypatch, uri):
    if uri is not None:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    spec = validated(PackSpec, {"source": "folder:photos", "dest": "packed", "data_root": "data"})
    request, files = sent(Request.of("pack", spec))
    told = request.specs["pack"]
    assert isinstance(told, PackSpec)
    assert (told.source, told.dest, told.data_root) == (f"folder:{here}/photos", f"{here}/packed", f"{here}/data")
    assert request.setting("tracking_uri") == uri  # for the check of the cluster
    assert files == {}


def test_images_are_sent_along(here):
    spec = validated(InterpolateSpec, {"from_image": "a.png", "to_image": "b.png"})
    with pytest.raises(JobError, match=r"--from a\.png") as raised:
        sent(Request.of("evaluate", spec))
    assert raised.value.code == "image-not-found"
    (here / "a.png").write_bytes(b"a")
    (here / "b.png").write_bytes(b"b")
    request, files = sent(Request.of("evaluate", spec))
    told = request.specs["interpolate"]
    assert isinstance(told, InterpolateSpec)
    assert {name: Path(file).read_bytes() for name, file in files.items()} == {
        told.from_image: b"a",
        told.to_image: b"b",
    }


def test_a_request_survives_the_way():
    ablation = Request.of("ablate", make_ablate_spec("demo", {"permutations": "all", "depths": "2,4"}))
    assert ablation.title == "ablate digits"
    for request in (
        ablation,
        Request.of("train", make_train_spec("paper", {"workers": "2:8"})),
        Request.of("evaluate", validated(OodSpec, {"batch_sizes": "2,5"}), validated(InterpolateSpec, {})),
        Request.of("pack", validated(PackSpec, {"source": "digits", "dest": "packed"})),
        Request(do="resume_training", run="x", changes={"workers": "2"}),
    ):
        assert Request.model_validate_json(request.model_dump_json()) == request


@pytest.mark.parametrize(
    ("request_", "trials"),
    [
        (Request.of("train", make_train_spec("smoke", {"dataset": "folder:ablate-this"})), False),
        (Request.of("ablate", make_ablate_spec("smoke", {"permutations": "all"})), True),
        (Request(do="resume_training", run="x"), False),
        (Request(do="resume_ablation", run="x"), True),
        (Request(do="demo"), True),
    ],
)
def test_whether_a_job_trains_trials_is_known_by_its_id(request_, trials):
    job = f"{_name(request_)}-1a2b3c4d"
    assert has_trials(job) == trials
    assert "_" not in job
