"""A PostgreSQL server for the tests. It listens on loopback only, has a password, and ends with the tests."""

import os
import pwd
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import sqlalchemy

from tests.jobs.command_line import free_port, wait_until

PASSWORD = f"Elderberry-{os.getpid()}/x"  # with a / that a URI must escape; different in each test process
ESCAPED = quote(PASSWORD, safe="")


def binaries() -> Path:
    """Return the folder of initdb. Skip the test if it, or the Python package for PostgreSQL, is missing."""
    try:
        sqlalchemy.make_url("postgresql://host/db").get_dialect().import_dbapi()
    except ImportError as error:
        pytest.skip(f"needs the Python package {error.name}: pip install '.[postgres]'")
    found = shutil.which("initdb")
    folders = [Path(found).parent] if found else sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    if not folders:
        pytest.skip("needs a PostgreSQL server: apt-get install postgresql")
    return folders[-1]


def execute(port: int, statement: str) -> None:
    """Execute a statement as the superuser."""
    uri = f"postgresql://glow:{ESCAPED}@127.0.0.1:{port}/postgres"
    engine = sqlalchemy.create_engine(uri, isolation_level="AUTOCOMMIT", poolclass=sqlalchemy.NullPool)
    with engine.connect() as connection:
        connection.execute(sqlalchemy.text(statement))


class Postgres:
    """A running server, on which each call of `uri` creates a database."""

    def __init__(self, port: int) -> None:
        self._port, self._made = port, 0

    def uri(self, password: str = ESCAPED) -> str:
        """Create an empty database, and return its URI with this password."""
        self._made += 1
        name = f"glow{self._made}"
        execute(self._port, f"CREATE DATABASE {name}")
        return f"postgresql://glow:{password}@127.0.0.1:{self._port}/{name}"


@contextmanager
def postgres_server(folder: Path) -> Iterator[Postgres]:
    """Run a server whose data are in this folder.

    PostgreSQL refuses to run as root. Then it runs as another user, to whom the folder is made accessible.
    """
    programs = binaries()
    root = os.geteuid() == 0
    user = _unprivileged() if root else None
    data, words = folder / "postgres", folder / "password"
    words.write_text(PASSWORD)
    data.mkdir()
    if user is not None:
        os.chown(data, user.pw_uid, user.pw_gid)
        os.chown(words, user.pw_uid, user.pw_gid)
        for above in data.parents[: len(data.parents) - 2]:  # all but / and /tmp
            above.chmod(above.stat().st_mode | 0o011)
    port = free_port()
    own: dict[str, Any] = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []} if user is not None else {}
    how = ("-D", data, "-U", "glow", "--pwfile", words, "-A", "scram-sha-256", "--no-sync", "-E", "UTF8", "--locale=C")
    done = subprocess.run(
        [str(programs / "initdb"), *map(str, how)], capture_output=True, text=True, cwd="/", check=False, **own
    )
    assert done.returncode == 0, done.stderr
    settings = {
        "port": port,
        "listen_addresses": "127.0.0.1",
        "unix_socket_directories": "",
        "fsync": "off",
        "max_connections": 60,
    }
    options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
    with (folder / "postgres.log").open("w") as log:
        server = subprocess.Popen(
            [str(programs / "postgres"), "-D", str(data), *options], stdout=log, stderr=log, cwd="/", **own
        )
    try:
        _wait(port, server)
        yield Postgres(port)
    finally:
        server.send_signal(signal.SIGINT)  # a fast shutdown, which does not wait for clients
        try:
            server.wait(5)
        except subprocess.TimeoutExpired:
            server.send_signal(signal.SIGQUIT)
            server.wait(10)


def _unprivileged() -> pwd.struct_passwd:
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    pytest.skip("needs a user postgres or nobody to run PostgreSQL as")


def _wait(port: int, server: "subprocess.Popen[bytes]") -> None:
    def accepts() -> bool:
        assert server.poll() is None, "PostgreSQL has ended"
        try:
            execute(port, "SELECT 1")
        except sqlalchemy.exc.OperationalError:
            return False
        return True

    wait_until(accepts)
