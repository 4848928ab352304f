"""Where a training is started: odd folders, locales, proxies, limits, another user. It works, or it is refused in one
sentence before anything is written; it never writes elsewhere."""

import os
import pwd
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.jobs.command_line import GLOWCTL, environment, glowctl, sentence_of
from tests.jobs.record_facts import runs_of_job, uri_of

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]

TRAIN = ("train", "--preset", "smoke", "--per-class", "16", "--epochs", "2", "--sample-every", "0")

FOLDERS = ("a b", "日本 ü", "a#b", "a&b=c", "semi;colon", "quote'q", "new\nline", "%s", "@home", "-dash", "x" * 150)

REFUSED_FOLDERS = ("what?x&y", "100%25 50%", "a%20b")

ENVIRONMENTS: dict[str, dict[str, Any]] = {
    "no locale": {"LANG": "C", "LC_ALL": "C"},
    "ASCII alone": {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    "an unknown locale": {"LANG": "tr_TR.ISO-8859-9", "LC_ALL": "xx_YY.UTF-8"},
    "proxies that are dead": dict.fromkeys(
        ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"), "http://127.0.0.1:1"
    ),
    "no home": {"HOME": "/nonexistent"},
    "a private Ray is wanted": {"RAY_ADDRESS": "local"},
    "no GPU wanted": {"CUDA_VISIBLE_DEVICES": ""},
    "another time zone": {"TZ": "Asia/Kolkata"},
    "a narrow terminal": {"COLUMNS": "20", "TERM": "dumb"},
}


@pytest.fixture
def temporary() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="o", dir="/tmp") as folder:
        yield Path(folder)


def check_trained(folder: Path, done: subprocess.CompletedProcess[str]) -> None:
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    (run,) = runs_of_job(uri_of(folder), "train")
    assert run.info.status == "FINISHED"
    assert {path.name for path in folder.iterdir()} <= {"mlflow.db", "mlflow.db.lock", "mlartifacts", "outputs"}


@pytest.mark.slow
def test_all_at_once(tmp_path, temporary):
    """Of each kind the oddest; `make test-nightly` has them one by one."""
    folder, place = tmp_path / "日本 #&", temporary / "temporär ö"
    for made in (folder, place):
        made.mkdir()
    check_trained(folder, glowctl(folder, *TRAIN, TMPDIR=str(place), **ENVIRONMENTS["no locale"]))
    assert list(tmp_path.iterdir()) == [folder]
    assert list(place.iterdir()) == []


@pytest.mark.slow
def test_a_folder_that_python_was_told_not_to_read_is_refused(tmp_path):
    folder = tmp_path / "日本"
    folder.mkdir()
    sentence = sentence_of(glowctl(folder, *TRAIN, **ENVIRONMENTS["ASCII alone"]))
    assert "LC_ALL=C.UTF-8" in sentence
    assert list(folder.iterdir()) == []


def test_an_address_of_ray_that_is_not_its_dashboards_is_refused(tmp_path):
    """Whoever set the variable means a cluster; a private Ray beside it would be a surprise."""
    sentence = sentence_of(glowctl(tmp_path, *TRAIN, RAY_ADDRESS="10.255.255.1:6379"), 2)
    assert "$RAY_ADDRESS 10.255.255.1:6379" in sentence
    assert list(tmp_path.iterdir()) == []


@pytest.mark.nightly
@pytest.mark.parametrize("name", FOLDERS)
def test_a_folder_of_any_name(tmp_path, name):
    folder = tmp_path / name
    folder.mkdir()
    check_trained(folder, glowctl(folder, *TRAIN))
    assert list(tmp_path.iterdir()) == [folder]


@pytest.mark.parametrize("name", REFUSED_FOLDERS)
def test_a_folder_that_an_address_cannot_name_is_refused(tmp_path, one_process, name):
    folder = tmp_path / name
    folder.mkdir()
    for command in (TRAIN, ("runs",), ("report",), ("sync", "x")):
        sentence = sentence_of(one_process(folder, *command))
        assert name in sentence
        assert "rename the folder" in sentence
        assert "--tracking-uri" in sentence
    assert list(tmp_path.iterdir()) == [folder]
    assert list(folder.iterdir()) == []
    assert "rename the folder" in " ".join(one_process(folder, "doctor").stdout.split())


@pytest.mark.nightly
@pytest.mark.parametrize(
    ("output", "name"), [("o u t ü#&", "temporär ö"), ("what?x%20", "with space"), ("outputs", "t" * 120)]
)
def test_an_output_and_a_folder_for_temporary_files_of_any_name(tmp_path, temporary, output, name):
    place = temporary / name
    place.mkdir()
    done = glowctl(tmp_path, *TRAIN, "--output", output, TMPDIR=str(place))
    assert done.returncode == 0, done.stderr
    (run,) = runs_of_job(uri_of(tmp_path), "train")
    assert (tmp_path / output / run.info.run_id / "results" / "checkpoint").is_dir()
    assert list(place.iterdir()) == []


@pytest.mark.nightly
@pytest.mark.parametrize("case", ENVIRONMENTS)
def test_an_environment(tmp_path, case):
    check_trained(tmp_path, glowctl(tmp_path, *TRAIN, **ENVIRONMENTS[case]))


@pytest.mark.nightly
def test_a_link_is_the_folder_that_it_leads_to(tmp_path):
    folder, link = tmp_path / "folder", tmp_path / "link"
    folder.mkdir()
    link.symlink_to(folder)
    check_trained(folder, glowctl(link, *TRAIN))


@pytest.mark.nightly
def test_few_files_may_be_open(tmp_path):
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))

    done = subprocess.run(
        [GLOWCTL, *TRAIN],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=limit,
    )
    if done.returncode == 0:
        check_trained(tmp_path, done)
    else:
        sentence_of(done)


@pytest.fixture
def nobody() -> str:
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    if shutil.which("setpriv") is None:
        pytest.skip("needs setpriv")
    return pwd.getpwnam("nobody").pw_name


def as_user(user: str, folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    found = pwd.getpwnam(user)
    become = ["setpriv", f"--reuid={found.pw_uid}", f"--regid={found.pw_gid}", "--clear-groups"]
    return subprocess.run(
        [*become, *command],
        cwd=folder,
        env=environment(HOME="/nonexistent", USER=user),
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.root
def test_another_user_trains_where_he_may_write_and_is_told_where_he_may_not(temporary, nobody):
    temporary.chmod(0o755)
    twice = "import subprocess, sys; subprocess.run([sys.executable, '-c', ''], check=True)"
    if as_user(nobody, temporary, sys.executable, "-c", twice).returncode != 0:
        pytest.skip("another user may not run this Python")
    own, foreign = temporary / "own", temporary / "foreign"
    for folder in (own, foreign):
        folder.mkdir()
    shutil.chown(own, nobody)
    check_trained(own, as_user(nobody, own, str(GLOWCTL), *TRAIN))
    assert "cannot be written" in sentence_of(as_user(nobody, foreign, str(GLOWCTL), *TRAIN))
    assert list(foreign.iterdir()) == []
