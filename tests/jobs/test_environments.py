"""Where a training is started: odd folders, locales, proxies, limits, another user. It works, or it is refused in one
sentence before anything is written; it never writes elsewhere."""

import os
import pwd
import resource
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.jobs.command_line import GLOWCTL, environment, glowctl, sentence_of
from tests.jobs.record_facts import runs_of_job

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]

TRAIN = ("train", "--preset", "smoke", "--per-class", "16", "--epochs", "2", "--sample-every", "0")

FOLDERS = ("a b", "日本 ü", "a#b", "a&b=c", "semi;colon", "quote'q", "new\nline", "%s", "@home", "-dash", "x" * 150)

REFUSED_FOLDERS = ("what?x&y", "100%25 50%", "a%20b")

ENVIRONMENTS = {
    "no locale": {"LANG": "C", "LC_ALL": "C"},
    "ASCII alone": {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    "an unknown locale": {"LANG": "tr_TR.ISO-8859-9", "LC_ALL": "xx_YY.UTF-8"},
    "proxies that are dead": dict.fromkeys(
        ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"), "http://127.0.0.1:1"
    ),
    "no home": {"HOME": "/nonexistent"},
    "the address of another Ray": {"RAY_ADDRESS": "10.255.255.1:6379"},
    "no GPU wanted": {"CUDA_VISIBLE_DEVICES": ""},
    "another time zone": {"TZ": "Asia/Kolkata"},
    "a narrow terminal": {"COLUMNS": "20", "TERM": "dumb"},
    "another run of MLflow": {"MLFLOW_RUN_ID": "0" * 32, "MLFLOW_EXPERIMENT_NAME": "other"},
}


def some(cases: tuple[str, ...], short: int) -> list:
    """The first few are slow, all others nightly."""
    return [
        pytest.param(case, marks=pytest.mark.slow if number < short else pytest.mark.nightly)
        for number, case in enumerate(cases)
    ]


@pytest.fixture
def temporary() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="odd", dir="/tmp") as folder:
        yield Path(folder)


def check_trained(folder: Path, done: subprocess.CompletedProcess[str]) -> None:
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    (run,) = runs_of_job(folder, "train")
    assert run.info.status == "FINISHED"
    assert {path.name for path in folder.iterdir()} <= {"mlflow.db", "mlflow.db.lock", "mlartifacts", "outputs"}


@pytest.mark.parametrize("name", some(FOLDERS, 2))
def test_a_folder_of_any_name(tmp_path, name):
    folder = tmp_path / name
    folder.mkdir()
    check_trained(folder, glowctl(folder, *TRAIN))
    assert list(tmp_path.iterdir()) == [folder]


@pytest.mark.parametrize("name", REFUSED_FOLDERS)
def test_a_folder_that_an_address_cannot_name_is_refused(tmp_path, name):
    folder = tmp_path / name
    folder.mkdir()
    for command in (TRAIN, ("runs",), ("report",)):
        sentence = sentence_of(glowctl(folder, *command))
        assert "rename the folder, or name another store with --tracking-uri" in sentence
    assert list(tmp_path.iterdir()) == [folder]
    assert list(folder.iterdir()) == []
    assert "rename the folder" in " ".join(glowctl(folder, "doctor").stdout.split())


@pytest.mark.parametrize("output", some(("o u t ü#&", "what?x%20"), 0))
def test_an_output_of_any_name(tmp_path, output):
    done = glowctl(tmp_path, *TRAIN, "--output", output)
    assert done.returncode == 0, done.stderr
    (run,) = runs_of_job(tmp_path, "train")
    assert (tmp_path / output / run.info.run_id / "results" / "checkpoint").is_dir()


@pytest.mark.parametrize("name", some(("temporär ö", "with space", "t" * 120), 1))
def test_a_folder_for_temporary_files_of_any_name(tmp_path, temporary, name):
    place = temporary / name
    place.mkdir()
    check_trained(tmp_path, glowctl(tmp_path, *TRAIN, TMPDIR=str(place)))
    assert list(place.iterdir()) == []


@pytest.mark.parametrize("case", some(tuple(ENVIRONMENTS), 2))
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


def as_user(user: str, folder: Path, *arguments: str, **changes: str) -> subprocess.CompletedProcess[str]:
    found = pwd.getpwnam(user)
    become = ["setpriv", f"--reuid={found.pw_uid}", f"--regid={found.pw_gid}", "--clear-groups"]
    return subprocess.run(
        [*become, GLOWCTL, *arguments],
        cwd=folder,
        env=environment(HOME="/nonexistent", USER=user, **changes),
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.root
def test_another_user_trains_where_he_may_write_and_is_told_where_he_may_not(temporary, nobody):
    temporary.chmod(0o755)
    if as_user(nobody, temporary, "--help").returncode != 0:
        pytest.skip("another user cannot run this installation")
    own, foreign = temporary / "own", temporary / "foreign"
    for folder in (own, foreign):
        folder.mkdir()
    shutil.chown(own, nobody)
    check_trained(own, as_user(nobody, own, *TRAIN))
    assert "cannot be written" in sentence_of(as_user(nobody, foreign, *TRAIN))
    assert list(foreign.iterdir()) == []
