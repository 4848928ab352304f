"""A Ray cluster seen from outside: the Jobs API of its dashboard. No other connection to it is needed."""

from __future__ import annotations

import asyncio
import logging
import math
import os
import platform
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

from jobs.errors import JobError
from jobs.ray_runtime.connection import ENVIRONMENT, STOP_PATIENCE_S
from jobs.system.retry import patient
from jobs.system.verbosity import VERBOSE, unheeded

if TYPE_CHECKING:
    from ray.job_submission import JobDetails, JobSubmissionClient

__all__ = ["Cluster", "Facts", "ended"]

log = logging.getLogger(__name__)


PROBE_TIMEOUT_S = 2.0
PATIENCE_S = 60.0
"""How long a client whose connection is lost tries to get it back, before it leaves the job to itself."""

START_PATIENCE_S = 30.0
REQUEST_TIMEOUT_S = 10.0
RETRY_S = 2.0
POLL_S = 0.3

ENDED = {"SUCCEEDED", "FAILED", "STOPPED"}

TOKEN_FILE = "~/.ray/auth_token"


@dataclass(frozen=True)
class Facts:
    """What a cluster says of itself."""

    ray: str
    python: str


class Cluster:
    """A cluster whose dashboard answers, in the time of `PROBE_TIMEOUT_S`.

    Raises JobError if it does not, if it refuses the token, or if it runs another Ray or Python than this machine.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self._headers, self._token_from = _token()
        self.facts = self._probe()
        self._refuse_other_versions()
        self._client = self._connect()

    def _probe(self) -> Facts:
        import requests

        try:
            answer = requests.get(
                f"{self.address}/api/v0/cluster_metadata", headers=self._headers, timeout=PROBE_TIMEOUT_S
            )
        except requests.RequestException as error:
            raise JobError(
                f"no Ray cluster answers at {self.address} ({type(error).__name__}): start it with ray up, forward its "
                "dashboard with ray dashboard, or correct --address"
            ) from None
        if answer.status_code == 401:
            raise JobError(
                f"the cluster at {self.address} wants a token: put the one that it was started with into {TOKEN_FILE} "
                "or $RAY_AUTH_TOKEN"
            )
        if answer.status_code == 403:
            raise JobError(
                f"the cluster at {self.address} refuses the token in {self._token_from}: replace it by the one that "
                "the cluster was started with"
            )
        try:
            found = answer.json()["data"]
            return Facts(found["rayVersion"], found["pythonVersion"])
        except (ValueError, KeyError, TypeError):
            raise JobError(f"what answers at {self.address} is no Ray dashboard: correct --address") from None

    def _refuse_other_versions(self) -> None:
        ours = Facts(metadata.version("ray"), platform.python_version())
        for name, here, there in (
            ("Ray", ours.ray, self.facts.ray),
            ("Python", _minor(ours.python), _minor(self.facts.python)),
        ):
            if here != there:
                raise JobError(
                    f"the cluster at {self.address} runs {name} {there} and this machine {here}: use the same on both"
                )

    def _connect(self) -> JobSubmissionClient:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        from ray.job_submission import JobSubmissionClient

        for name in ("dashboard.modules.dashboard_sdk", "dashboard.modules.job.sdk", "_private.runtime_env.packaging"):
            logging.getLogger(f"ray.{name}").setLevel(logging.ERROR)  # each has set a level of its own
        with self._sentences():
            return JobSubmissionClient(self.address, headers=dict(self._headers))

    def submit(self, entry: str, name: str, files: Mapping[str, str | Path], about: Mapping[str, str]) -> str:
        """Submits `python -m ENTRY`, with the code of this installation and with `files` (name -> text, or a file to
        copy) in its working folder; the id of the job. `about` is shown beside it."""
        with tempfile.TemporaryDirectory() as folder, self._sentences():
            for package in ("glow", "jobs"):
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
        """Those that were submitted, the newest first."""
        with self._sentences():
            # Of a forgotten job Ray still knows the driver, but not when it was submitted.
            submitted = [job for job in self._client.list_jobs() if job.submission_id and job.start_time]
        return sorted(submitted, key=lambda job: job.start_time or 0, reverse=True)

    def info(self, job: str) -> JobDetails:
        """Raises JobError for a job that the cluster does not know."""
        import requests
        from ray.job_submission import JobDetails

        # Not by Ray's client, which waits for ever where a connection is cut.
        with self._sentences(job):
            answer = requests.get(f"{self.address}/api/jobs/{job}", headers=self._headers, timeout=REQUEST_TIMEOUT_S)
            if not answer.ok:
                raise RuntimeError(f"status code {answer.status_code}: {answer.text}")
            return JobDetails(**answer.json())

    def wait(self, job: str, patience_s: float = math.inf) -> JobDetails:
        """How a job has ended, when it has. Raises JobError if it has not in `patience_s`."""
        deadline = time.monotonic() + patience_s
        while not ended(found := self.info(job)):
            if time.monotonic() > deadline:
                raise JobError(f"job {job} has not ended in {patience_s:.0f} s: see glowctl logs {job}")
            time.sleep(POLL_S)
        return found

    def stop(self, job: str) -> JobDetails:
        """Stops a job, and waits until it has ended. One that has ended already stays as it is."""
        with self._sentences(job):
            self._client.stop_job(job)
        return self.wait(job, STOP_PATIENCE_S + 10)

    def forget(self, job: str) -> None:
        """Removes a job that has ended from the list."""
        with unheeded(log, f"job {job} stays in the list", RuntimeError, OSError):
            self._client.delete_job(job)

    def log(self, job: str) -> list[str]:
        """What a job has written so far."""
        with self._sentences(job):
            return self._client.get_job_logs(job).splitlines()

    def follow(self, job: str, see: Callable[[str], None]) -> JobDetails:
        """Hands each line that a job writes to `see`, until the job has ended; how it ended.

        A connection that is lost is made again, and no line is seen twice.

        Raises JobError if that does not succeed for `PATIENCE_S`, or for an unknown job.
        """
        self.info(job)
        lines = _Lines(see)
        while True:
            with unheeded(log, "the connection for the lines is lost"):  # by an error of aiohttp's, asyncio's or Ray's
                lines.again()
                asyncio.run(self._tail_until_end(job, lines))
            try:
                found = patient(_is_away, PATIENCE_S, RETRY_S)(self.info, job)
            except _Away as error:
                raise JobError(
                    f"the connection to {self.address} is lost; the job goes on: glowctl logs -f {job}"
                ) from error
            if ended(found):
                self._rest(job, lines)
                return found
            time.sleep(POLL_S)

    async def _tail_until_end(self, job: str, lines: _Lines) -> None:
        """The stream itself would go on for seconds after the job's end, and for ever where the connection is cut."""
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
        """What the job wrote after the connection for its lines was closed, and the last line's end."""
        with unheeded(log, f"the last lines of job {job} are not shown", JobError):
            text = self._client.get_job_logs(job)
            lines.again()
            lines.take(text)
        lines.close()

    @contextmanager
    def _sentences(self, job: str | None = None) -> Iterator[None]:
        """Whatever Ray's client raises, as one sentence."""
        import requests

        try:
            yield
        except (requests.RequestException, ConnectionError) as error:
            raise _Away(f"the cluster at {self.address} does not answer any more ({type(error).__name__})") from error
        except RuntimeError as error:
            text = str(error)
            if "status code 404" in text and job is not None:
                raise JobError(f"the cluster at {self.address} knows no job {job!r}: glowctl jobs lists them") from None
            first = text.strip().splitlines()[0] if text.strip() else type(error).__name__
            raise JobError(f"the cluster at {self.address} failed: {first}") from error


class _Away(JobError):
    """The cluster does not answer."""


def _is_away(error: BaseException) -> bool:
    return isinstance(error, _Away)


def _takes_no_jobs_yet(error: BaseException) -> bool:
    """A head answers some seconds before it takes jobs."""
    return isinstance(error, RuntimeError) and "No available agent" in str(error)


class _Lines:
    """Text that comes in pieces, which may end within a line, and may come again from the start."""

    def __init__(self, see: Callable[[str], None]) -> None:
        self._see = see
        self.seen = 0
        self._skip = 0
        self._rest = ""

    def again(self) -> None:
        """The text comes again, from its start."""
        self._skip, self._rest = self.seen, ""

    def take(self, text: str) -> None:
        *whole, self._rest = (self._rest + text).split("\n")
        for line in whole:
            if self._skip:
                self._skip -= 1
                continue
            self.seen += 1
            self._see(line)

    def close(self) -> None:
        if self._rest and not self._skip:
            self._see(self._rest)
        self._rest = ""


def ended(job: JobDetails) -> bool:
    return str(job.status.value) in ENDED


def _source(package: str) -> str:
    """The folder of a package, which is not imported for it."""
    found = find_spec(package)
    assert found is not None
    assert found.submodule_search_locations
    return next(iter(found.submodule_search_locations))


def _token() -> tuple[dict[str, str], str]:
    """The header that shows the cluster's token, in Ray's own order of places, and where it is from; none if there is
    no token: a cluster may want none."""
    token, place = os.environ.get("RAY_AUTH_TOKEN"), "$RAY_AUTH_TOKEN"
    if not token:
        given = os.environ.get("RAY_AUTH_TOKEN_PATH")
        file, place = Path(given or TOKEN_FILE).expanduser(), given or TOKEN_FILE
        try:
            token = file.read_text().strip()
        except FileNotFoundError:
            if given:
                raise JobError(f"there is no token in {given}, which $RAY_AUTH_TOKEN_PATH names") from None
        except OSError as error:
            raise JobError(f"the token in {place} cannot be read: {error.strerror}") from None
    headers: dict[str, str] = {"Authorization": f"Bearer {token}"} if token else {}
    return headers, place


def _minor(version: str) -> str:
    return ".".join(version.split(".")[:2])
