"""Hosts on one machine, each with namespaces of its own and an sshd, on which `ray up` works as on real ones.

They hang on a bridge that has a namespace of its own too. Everything dies with its processes, and these end when the
pipe to the process that made them closes: a killed test run leaves nothing either.
"""

import os
import pwd
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import psutil

__all__ = ["Host", "hosts", "missing"]

HOME = Path(pwd.getpwuid(0).pw_dir)
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
ENVIRONMENT = {"HOME": str(HOME), "USER": "root", "LANG": "C.UTF-8", "PATH": PATH}  # nothing of the test's own
PROGRAMS = ("bash", "unshare", "nsenter", "mount", "ip", "setsid", "ssh", "ssh-keygen", "sshd", "rsync")
NAMESPACES = ("--mount", "--uts", "--ipc", "--net", "--pid")

# What a host sees of this machine's files though it lies in a folder of which each host has its own.
SEEN = {
    path
    for seen in (Path(sys.base_prefix), Path(sys.prefix), Path(__file__).parents[2])
    for path in (seen, seen.resolve())
}

SSHD = """\
AddressFamily inet
HostKey /run/sshd_key
AuthorizedKeysFile .ssh/authorized_keys
PermitRootLogin prohibit-password
PasswordAuthentication no
StrictModes no
UsePAM no
UseDNS no
PidFile none
PrintMotd no
PrintLastLog no
MaxStartups 100:30:200
MaxSessions 100
Subsystem sftp internal-sftp
"""

SSH = """\
StrictHostKeyChecking no
UserKnownHostsFile /dev/null
LogLevel ERROR
"""


def missing() -> str | None:
    """What this machine lacks for `hosts`, in one clause; None if nothing."""
    if os.geteuid() != 0:
        return "it needs root"
    for program in PROGRAMS:
        if shutil.which(program, path=PATH) is None:
            return f"there is no {program}"
    trial = "mount -t tmpfs tmpfs /run && ip link add a0 type bridge && ip link add b0 type veth peer name c0"
    tried = subprocess.run(
        ["unshare", *NAMESPACES, "--fork", "--mount-proc", "bash", "-c", trial],
        capture_output=True,
        text=True,
        timeout=30,
        env=ENVIRONMENT,
        check=False,
    )
    return f"namespaces cannot be made: {tried.stderr.strip()}" if tried.returncode != 0 else None


@contextmanager
def hosts(count: int, folder: Path) -> Iterator[list["Host"]]:
    """That many hosts with sshd, which reach each other and this process by network, and nothing else.

    `folder` is for them alone. Each has a /tmp, /run, /dev/shm and home of its own, of which all but /dev/shm lie in
    `folder / name`. `folder / "shared"` they can all write, also when they are cut off; the rest of the disk they can
    only read.
    """
    folder = folder.resolve()
    (folder / "shared").mkdir(parents=True, exist_ok=True)
    _make_key(folder / "ssh_key")
    network = _free_network()
    names = {f"glow{i}": f"{network}.{2 + i}" for i in range(count)}
    link = f"glow-{network.split('.')[-1]}"
    with ExitStack() as stack:
        switch = _start(stack, ["unshare", "--net"], "true").pid
        _ip(switch, "link add bridge type bridge", "link set bridge up")
        made = []
        for name, ip in names.items():
            host = Host(name, ip, folder, switch)
            host._make_files(names)
            host._boot(stack)
            made.append(host)
        _ip(os.getpid(), f"link add {link} type veth peer name client netns {switch}")
        stack.callback(_ip, os.getpid(), f"link delete {link}")
        _ip(os.getpid(), f"address add {network}.1/24 dev {link}", f"link set {link} up")
        _ip(switch, "link set client master bridge up")
        for host in made:
            host.start()
        yield made


class Host:
    """One of `hosts`. Its network interface is named eth0; `ray`, `glowctl` and `python` are on its PATH."""

    def __init__(self, name: str, ip: str, folder: Path, switch: int) -> None:
        self.name = name
        self.ip = ip
        self.ssh_key = folder / "ssh_key"  # logs in as root to every host; in a host it is ~/.ssh/id_ed25519
        self.home = folder / name / "home"  # what the host has as home and as /tmp, to look at from outside
        self.tmp = folder / name / "tmp"
        self._folder = folder / name
        self._shared = folder / "shared"
        self._switch = switch
        self._init = 0

    def run(self, command: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        """Runs it by bash in a login shell on the host, in its home. Raises TimeoutExpired, when it is killed."""
        line = ["nsenter", f"--target={self._init}", *NAMESPACES, "setsid", "bash", "--login", "-c", f"cd\n{command}"]
        with subprocess.Popen(
            line,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=ENVIRONMENT,
            start_new_session=True,
        ) as process:
            try:
                out, err = process.communicate(timeout=timeout)
            except BaseException:
                started = psutil.Process(process.pid).children(recursive=True)
                for one in started:
                    with suppress(psutil.NoSuchProcess):
                        one.kill()
                psutil.wait_procs(started, timeout=10)
                process.kill()
                raise
        return subprocess.CompletedProcess(command, process.returncode, out, err)

    def cut(self) -> None:
        """Lets no packet in or out, as when the cable is pulled: nobody is told."""
        _ip(self._switch, f"link set {self.name} down")

    def join(self) -> None:
        """Mends what `cut` did."""
        _ip(self._switch, f"link set {self.name} up")

    def kill_all(self) -> None:
        """Kills every process, sshd too. Peers see their connections end, unless the host was cut before."""
        self.run("kill -KILL -1")
        psutil.wait_procs(self.processes(), timeout=10)

    def start(self) -> None:
        """Starts sshd."""
        listens = "until grep -q ':0016 .* 0A ' /proc/net/tcp; do sleep 0.02; done"
        done = self.run(f"mkdir -p /run/sshd && $(command -v sshd) -f /run/sshd_config && {listens}")
        assert done.returncode == 0, done.stderr

    def bytes_sent(self) -> int:
        return self._counters()[8]

    def bytes_received(self) -> int:
        return self._counters()[0]

    def processes(self) -> list[psutil.Process]:
        """All that run on it; its init, which only reaps, is none of them."""
        namespace = os.readlink(f"/proc/{self._init}/ns/pid")
        found = []
        for process in psutil.process_iter():
            with suppress(OSError, psutil.NoSuchProcess):  # gone meanwhile
                inside = os.readlink(f"/proc/{process.pid}/ns/pid") == namespace and process.pid != self._init
                if inside and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def _counters(self) -> list[int]:
        lines = Path(f"/proc/{self._init}/net/dev").read_text().splitlines()
        return next([int(count) for count in line.split()[1:]] for line in lines if line.strip().startswith("eth0:"))

    def _make_files(self, names: dict[str, str]) -> None:
        (self.home / ".ssh").mkdir(parents=True)
        self.tmp.mkdir()
        (self._folder / "run").mkdir()
        _make_key(self._folder / "run" / "sshd_key")
        (self._folder / "run" / "sshd_config").write_text(SSHD)
        addresses = {"localhost": "127.0.0.1", **names}
        (self._folder / "hosts").write_text("".join(f"{ip} {name}\n" for name, ip in addresses.items()))
        (self._folder / "shadow").write_text("root:*:20000:0:99999:7:::\n")  # sshd lets no locked account in
        # `ray up` has bash read .profile, and then .bashrc itself; a command by ssh has it read only .bashrc.
        (self.home / ".profile").write_text(". ~/.bashrc\n")
        (self.home / ".bashrc").write_text(f"export PATH={Path(sys.prefix) / 'bin'}:{PATH}\n")
        (self.home / ".ssh" / "config").write_text(SSH)
        shutil.copy(self.ssh_key, self.home / ".ssh" / "id_ed25519")
        shutil.copy(self.ssh_key.with_suffix(".pub"), self.home / ".ssh" / "authorized_keys")
        self.home.chmod(0o700)
        self.tmp.chmod(0o1777)

    def _boot(self, stack: ExitStack) -> None:
        own = {Path("/run"): self._folder / "run", Path("/tmp"): self.tmp, HOME: self.home}
        lines = [f"echo {self.name} > /proc/sys/kernel/hostname", "mount -t tmpfs tmpfs /dev/shm"]
        for path in [*sorted(SEEN), self._shared]:
            target = path
            for place, folder in own.items():
                if path.is_relative_to(place):
                    target = folder / path.relative_to(place)
                    target.mkdir(parents=True, exist_ok=True)
            option = "rw" if path == self._shared else "ro"
            lines.append(shlex.join(["mount", "--bind", "-o", option, str(path), str(target)]))
        for file in ("hosts", "shadow"):
            lines.append(shlex.join(["mount", "--bind", str(self._folder / file), f"/etc/{file}"]))
        # No name server: what looks for a name outside fails at once.
        lines.append("if [ -e /etc/resolv.conf ]; then mount --bind /dev/null /etc/resolv.conf; fi")
        # Last the place that hides the folder in which all this lies.
        for place in sorted(own, key=self._folder.is_relative_to):
            lines.append(shlex.join(["mount", "--rbind", str(own[place]), str(place)]))
        lines.append("mount -o remount,bind,ro /")
        options = [*NAMESPACES, "--fork", "--kill-child", "--mount-proc"]
        outside = _start(stack, ["unshare", *options], "\n".join(lines))
        (init,) = psutil.Process(outside.pid).children()
        self._init = init.pid
        stack.callback(os.kill, self._init, signal.SIGKILL)
        _ip(self._switch, f"link add {self.name} type veth peer name eth0 netns {self._init}")
        _ip(self._switch, f"link set {self.name} master bridge up")
        # Ray takes the address from which it would reach a public name server: there must be a route to it.
        network = (f"address add {self.ip}/24 dev eth0", "link set eth0 up", "route add default dev eth0")
        _ip(self._init, "link set lo up", *network)


def _start(stack: ExitStack, unshare: list[str], script: str) -> subprocess.Popen[str]:
    """Starts a bash that ends with `stack`. It runs the script, and then reaps, for it does so while it reads."""
    process = stack.enter_context(
        subprocess.Popen(
            [*unshare, "bash"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=ENVIRONMENT,
            start_new_session=True,  # Ctrl-C is for the tests, which then end it
        )
    )
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(f"set -e\n{script}\necho ready\n")
    process.stdin.flush()
    said = process.stdout.readline()
    if said != "ready\n":
        raise RuntimeError(f"no host: {said}{process.stdout.read()}")
    return process


def _ip(pid: int, *lines: str) -> None:
    """Commands of `ip`, in the network namespace of that process."""
    subprocess.run(
        ["nsenter", f"--net=/proc/{pid}/ns/net", "ip", "-batch", "-"],
        input="\n".join(lines),
        text=True,
        check=True,
        timeout=30,
        env=ENVIRONMENT,
    )


def _free_network() -> str:
    """The first three numbers of addresses that nothing on this machine uses."""
    used = subprocess.run(["ip", "route", "show", "table", "all"], capture_output=True, text=True, check=True).stdout
    networks = (f"10.213.{(os.getpid() + i) % 256}" for i in range(256))
    return next(network for network in networks if f"{network}." not in used)


def _make_key(path: Path) -> None:
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", path],
        check=True,
        stdin=subprocess.DEVNULL,
        timeout=30,
    )
