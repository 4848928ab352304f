"""A Ray cluster from outside: submit, list, follow and stop jobs through the Jobs API of its dashboard.

The address of the dashboard, such as http://localhost:8265, is the only connection to the cluster that is needed.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from glowctl.errors import JobError
from glowctl.ray_runtime.connection import ENVIRONMENT, STOP_PATIENCE_S
from glowctl.system.retry import patient
from glowctl.system.verbosity import VERBOSE, unheeded
from glowctl.tracking import tag_names

if TYPE_CHECKING:
    from ray.job_submission import JobDetails, JobSubmissionClient
    from tenacity import Retrying

    from glowctl.text import JsonObject

log = logging.getLogger(__name__)


PROJECT = "glowctl"
"""The name under which this project is installed."""

PROBE_TIMEOUT_S = 2.0
"""Longest wait in seconds for the dashboard's first answer."""

PATIENCE_S = 60.0
"""Seconds for which a client tries to restore a lost connection before it gives up; the job itself continues."""

START_PATIENCE_S = 30.0
"""Seconds for which a client waits for a head that has just started and takes no jobs yet."""

REQUEST_TIMEOUT_S = 10.0
"""Longest wait in seconds for an answer about a job."""

RETRY_S = 2.0
"""Seconds between attempts to restore a lost connection."""

POLL_S = 0.3
"""Seconds between questions whether a job has ended."""

ENDED = {"SUCCEEDED", "FAILED", "STOPPED"}
"""Ray's states of jobs that have ended."""

CHECK = "check"
"""The title of a job that only checks the cluster."""

TOKEN_FILE = "~/.ray/auth_token"
"""File in which Ray looks for the cluster's token."""


@dataclass(frozen=True)
class Facts:
    """The versions that a cluster runs.

    Attributes:
        ray: version of Ray, such as "2.60.0".
        python: version of Python, such as "3.11.9".
    """

    ray: str
    python: str


class Cluster:
    """A cluster whose dashboard has answered within `PROBE_TIMEOUT_S`.

    Args:
        address: address of the dashboard, such as http://localhost:8265.

    Attributes:
        address: the argument `address`.
        facts: the versions that the cluster runs.

    Raises:
        JobError: if the dashboard does not answer, if it refuses the token, or if the cluster runs a version of Ray or
            Python with which the code of this installation does not run.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self._headers, self._token_from = _token()
        self.facts = self._probe()
        self._refuse_unfit_versions()
        self._client = self._connect()

    def _probe(self) -> Facts:
        import requests

        try:
            answer = requests.get(
                f"{self.address}/api/v0/cluster_metadata", headers=self._headers, timeout=PROBE_TIMEOUT_S
            )
        except requests.RequestException as error:
            raise JobError(
                f"no Ray cluster answers at {self.address} ({type(error).__name__})",
                remedy="start it with ray up, forward its dashboard with ray dashboard, or correct --address",
                code="cluster-does-not-answer",
            ) from None
        if answer.status_code == 401:
            raise JobError(
                f"the cluster at {self.address} requires a token",
                remedy=f"put the token that it was started with into {TOKEN_FILE} or $RAY_AUTH_TOKEN",
                code="token-missing",
            )
        if answer.status_code == 403:
            raise JobError(
                f"the cluster at {self.address} refuses the token in {self._token_from}",
                remedy="replace it by the token that the cluster was started with",
                code="token-refused",
            )
        try:
            found = answer.json()["data"]
            return Facts(found["rayVersion"], found["pythonVersion"])
        except (ValueError, KeyError, TypeError):
            raise JobError(
                f"the server that answers at {self.address} is not a Ray dashboard",
                remedy="correct --address",
                code="not-a-dashboard",
            ) from None

    def _refuse_unfit_versions(self) -> None:
        for name, there, needed in (
            ("Ray", self.facts.ray, _needed_ray()),
            ("Python", self.facts.python, metadata.metadata(PROJECT)["Requires-Python"]),
        ):
            if not SpecifierSet(needed).contains(there, prereleases=True):
                raise JobError(
                    f"the cluster at {self.address} runs {name} {there}, and this glowctl needs {name} {needed}",
                    remedy="install a version that fits on the cluster",
                    code="version-mismatch",
                )

    def _connect(self) -> JobSubmissionClient:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        from ray.job_submission import JobSubmissionClient

        for name in ("dashboard.modules.dashboard_sdk", "dashboard.modules.job.sdk", "_private.runtime_env.packaging"):
            logging.getLogger(f"ray.{name}").setLevel(logging.ERROR)  # each of these loggers sets its level itself
        with self._sentences():
            return JobSubmissionClient(self.address, headers=dict(self._headers))

    def submit(self, entry: str, name: str, files: Mapping[str, str | Path], about: Mapping[str, str]) -> str:
        """Submit `python -m ENTRY` as a job, with the code of this installation.

        Args:
            entry: name of the module to run.
            name: first part of the job's id.
            files: files of the job's working folder: name -> text, or the path of a file to copy.
            about: metadata of the job, for lists of jobs.

        Returns:
            The id of the job.

        Raises:
            JobError: if the cluster does not answer any more, or refuses the job.
        """
        with tempfile.TemporaryDirectory() as folder, self._sentences():
            for package in ("glow", "glowctl"):
                shutil.copytree(_source(package), Path(folder, package), ignore=shutil.ignore_patterns("__pycache__"))
            for file, content in files.items():
                target = Path(folder, file)
                target.parent.mkdir(parents=True, exist_ok=True)
                if isinstance(content, Path):
                    shutil.copy(content, target)
                else:
                    target.write_text(content)
            verbose = {VERBOSE: os.environ[VERBOSE]} if os.environ.get(VERBOSE) else {}
            own = {**ENVIRONMENT, **verbose, "RAY_JOB_STOP_WAIT_TIME_S": str(STOP_PATIENCE_S)}
            return patient(_takes_no_jobs_yet, START_PATIENCE_S, POLL_S)(
                lambda: self._client.submit_job(
                    entrypoint=f"exec python -m {entry}",
                    submission_id=f"{name}-{secrets.token_hex(4)}",
                    metadata=dict(about),
                    runtime_env={"working_dir": folder, "env_vars": own},
                )
            )

    def list_jobs(self) -> list[JobDetails]:
        """Return the submitted jobs, the newest first.

        Raises:
            JobError: if the cluster does not answer any more.
        """
        with self._sentences():
            # Ray keeps the driver of a deleted job in its list, but without an id or a time of submission.
            submitted = [job for job in self._client.list_jobs() if job.submission_id and job.start_time]
        return sorted(submitted, key=lambda job: job.start_time or 0, reverse=True)

    def idle_since(self) -> float | None:
        """Return when the last job ended, in seconds since 1970; 0 if there was none, None if one runs or waits.

        Programs that connected to Ray without the Jobs API count too. Checks of the cluster (`CHECK`) do not.

        Raises:
            JobError: if the cluster does not answer any more.
        """
        with self._sentences():
            jobs = [job for job in self._client.list_jobs() if (job.metadata or {}).get(tag_names.TITLE) != CHECK]
        if not all(map(ended, jobs)):
            return None
        return max(((job.end_time or 0) / 1000 for job in jobs), default=0.0)

    def info(self, job: str) -> JobDetails:
        """Return the state of a job.

        Raises:
            JobError: if the cluster has no such job, or does not answer any more.
        """
        from ray.job_submission import JobDetails

        with self._sentences(job):
            return JobDetails(**self._get(job))

    def wait(self, job: str, patience_s: float = math.inf) -> JobDetails:
        """Wait until a job has ended, and return its final state.

        If the connection is lost, this method connects again.

        Raises:
            JobError: if it has not ended within `patience_s` seconds, if the cluster has no such job, or if the cluster
                does not answer for `PATIENCE_S`.
        """
        deadline = time.monotonic() + patience_s
        while not ended(found := _until_back()(self.info, job)):
            if time.monotonic() > deadline:
                raise JobError(
                    f"job {job} has not ended within {patience_s:.0f} s",
                    remedy=f"see glowctl logs {job}",
                    code="job-does-not-end",
                )
            time.sleep(POLL_S)
        return found

    def stop(self, job: str) -> JobDetails:
        """Stop a job, wait until it has ended, and return its final state.

        A job that has ended already keeps its state.

        Raises:
            JobError: if the job does not end in time, the cluster has no such job, or it does not answer any more.
        """
        with self._sentences(job):
            self._client.stop_job(job)
        return self.wait(job, STOP_PATIENCE_S + 10)

    def forget(self, job: str) -> None:
        """Remove an ended job from the list of jobs. A failure is only logged."""
        with unheeded(log, f"job {job} stays in the list", RuntimeError, OSError):
            self._client.delete_job(job)

    def log(self, job: str) -> list[str]:
        """Return the lines that a job has written so far.

        Raises:
            JobError: if the cluster has no such job, or does not answer any more.
        """
        return self._text(job).splitlines()

    def follow(self, job: str, see: Callable[[str], None]) -> JobDetails:
        """Call `see` with each line of a job's output until the job has ended, and return the final state of the job.

        If the connection is lost, this method connects again. No line is passed twice.

        Args:
            job: id of the job.
            see: receives each line, without its line break.

        Raises:
            JobError: if the cluster has no such job, or the connection stays lost for `PATIENCE_S`.
            OSError: if `see` raises it, such as for a closed pipe.
        """
        self.info(job)
        lines = _Lines(see)
        while True:
            with unheeded(
                log, "the connection for the lines is lost"
            ):  # aiohttp, asyncio and Ray each raise another error for this
                lines.again()
                asyncio.run(self._tail_until_end(job, lines))
            if lines.refusal is not None:
                raise lines.refusal
            try:
                found = _until_back()(self.info, job)
            except _Away as error:
                raise JobError(
                    f"the connection to {self.address} is lost, and job {job} continues without it",
                    remedy=f"follow it again with glowctl logs -f {job}",
                    code="connection-lost",
                ) from error
            if ended(found):
                self._rest(job, lines)
                return found
            time.sleep(POLL_S)

    async def _tail_until_end(self, job: str, lines: _Lines) -> None:
        """Stream the lines until the job has ended.

        The stream alone would end seconds after the job, and never if the network drops the connection.
        """
        tasks = [asyncio.create_task(self._tail(job, lines)), asyncio.create_task(self._until_end(job))]
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _until_end(self, job: str) -> None:
        while not ended(await asyncio.to_thread(self.info, job)):
            await asyncio.sleep(POLL_S)

    async def _tail(self, job: str, lines: _Lines) -> None:
        async for text in self._client.tail_job_logs(job):
            lines.take(text)

    def _rest(self, job: str, lines: _Lines) -> None:
        """Pass on what the job wrote after the stream was closed, and a last line without a line break."""
        with unheeded(log, f"the last lines of job {job} are not shown", JobError):
            text = _until_back()(self._text, job)
            lines.again()
            lines.take(text)
        lines.close()

    def _text(self, job: str) -> str:
        with self._sentences(job):
            return str(self._get(f"{job}/logs")["logs"])

    def _get(self, path: str) -> JsonObject:
        """Ask the Jobs API. Ray's client has no timeout: it would wait forever if the network drops the connection."""
        import requests

        answer = requests.get(f"{self.address}/api/jobs/{path}", headers=self._headers, timeout=REQUEST_TIMEOUT_S)
        if not answer.ok:
            raise RuntimeError(f"status code {answer.status_code}: {answer.text}")
        return dict(answer.json())

    @contextmanager
    def _sentences(self, job: str | None = None) -> Iterator[None]:
        """Raise what Ray's client raises as a JobError with one sentence."""
        import requests

        try:
            yield
        except (requests.RequestException, ConnectionError) as error:
            raise _Away(
                f"the cluster at {self.address} does not answer any more ({type(error).__name__})",
                remedy="check the cluster and its ray dashboard, then run the command again",
                code="cluster-does-not-answer",
            ) from error
        except RuntimeError as error:
            text = str(error)
            if "status code 404" in text and job is not None:
                raise JobError(
                    f"the cluster at {self.address} has no job {job!r}",
                    remedy="see glowctl jobs for the ids of its jobs",
                    code="job-not-found",
                ) from None
            first = text.strip().splitlines()[0] if text.strip() else type(error).__name__
            raise JobError(
                f"the cluster at {self.address} failed ({first})",
                remedy="check it with glowctl cluster status",
                code="cluster-failed",
            ) from error


class _Away(JobError):
    """A cluster does not answer."""


def _is_away(error: BaseException) -> bool:
    return isinstance(error, _Away)


def _until_back() -> Retrying:
    """Return an object that calls a given function, and repeats the call while the cluster does not answer."""
    return patient(_is_away, PATIENCE_S, RETRY_S)


def _takes_no_jobs_yet(error: BaseException) -> bool:
    """Return whether an error is that of a head that has just started: it answers seconds before it takes jobs."""
    return isinstance(error, RuntimeError) and "No available agent" in str(error)


class _Lines:
    """Splits text into lines that arrives in pieces, which may end within a line and may repeat from the start.

    Attributes:
        seen: number of lines that have been passed on.
        refusal: the OSError that `see` has raised, if any. Unlike that of a connection, it stays.
    """

    def __init__(self, see: Callable[[str], None]) -> None:
        self._see = see
        self.seen = 0
        self.refusal: OSError | None = None
        self._skip = 0
        self._rest = ""

    def again(self) -> None:
        """Prepare for a text that repeats from its start, by skipping the lines that have been passed on already."""
        self._skip, self._rest = self.seen, ""

    def take(self, text: str) -> None:
        """Take the next piece of the text, and pass on the lines that it completes."""
        *whole, self._rest = (self._rest + text).split("\n")
        for line in whole:
            if self._skip:
                self._skip -= 1
                continue
            self.seen += 1
            try:
                self._see(line)
            except OSError as error:
                self.refusal = error
                raise

    def close(self) -> None:
        """Pass on a last line that has no line break."""
        if self._rest and not self._skip:
            self._see(self._rest)
        self._rest = ""


def ended(job: JobDetails) -> bool:
    """Return whether a job has ended, well or not."""
    return str(job.status.value) in ENDED


def _source(package: str) -> str:
    """Return the folder of a package without importing it."""
    found = find_spec(package)
    assert found is not None
    assert found.submodule_search_locations
    return next(iter(found.submodule_search_locations))


def _token() -> tuple[dict[str, str], str]:
    """Return the HTTP header with the cluster's token, and the place of the token.

    The places are searched in Ray's order. The header is empty if there is no token, which a cluster may not require.
    """
    token, place = os.environ.get("RAY_AUTH_TOKEN"), "$RAY_AUTH_TOKEN"
    if not token:
        given = os.environ.get("RAY_AUTH_TOKEN_PATH")
        file, place = Path(given or TOKEN_FILE).expanduser(), given or TOKEN_FILE
        try:
            token = file.read_text().strip()
        except FileNotFoundError:
            if given:
                raise JobError(
                    f"the file {given}, which $RAY_AUTH_TOKEN_PATH names, does not exist",
                    remedy="put the cluster's token there, or correct the variable",
                    code="token-missing",
                ) from None
        except OSError as error:
            raise JobError(
                f"the token in {place} cannot be read ({error.strerror})",
                remedy="make the file readable for you",
                code="token-missing",
            ) from None
    headers: dict[str, str] = {"Authorization": f"Bearer {token}"} if token else {}
    return headers, place


def _needed_ray() -> str:
    """Return the versions of Ray that the code of this installation runs with, such as ">=2.56,<3"."""
    needed = map(Requirement, metadata.requires(PROJECT) or [])
    return next(str(each.specifier) for each in needed if each.name == "ray")
