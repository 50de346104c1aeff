"""Start and stop the demo's hosts: SSH servers on this machine's loopback addresses.

Everything lies in one folder, which is used as a user's own project folder is: ``invoke.yaml``,
``hosts.txt``, an ``ssh_config``, and a ``tasks.py`` that loads the checkout's commands, so that
``invoke train`` typed there works. Homes, keys and ports are kept from one start to the next.
"""

from __future__ import annotations

import contextlib
import fcntl
import getpass
import json
import os
import select
import socket
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import yaml

from provision.errors import ConfigError

#: The folder that holds zf and tasks.py.
CHECKOUT = Path(__file__).resolve().parents[2]
#: Seconds a host may take to listen, on a slow and busy machine.
START_SECONDS = 60
#: Seconds a host may take to stop what runs on it, before it is killed.
STOP_SECONDS = 60


@dataclass(frozen=True, kw_only=True)
class DemoHost:
    """One running host: its SSH name, where it listens, its home folder, its server's process."""

    name: str
    address: str
    port: int
    home: Path
    server: subprocess.Popen[str] = field(repr=False, compare=False)


@dataclass(frozen=True, kw_only=True)
class Fleet:
    """Running hosts, and the folder that describes them to ZeroFleet and to ssh."""

    folder: Path
    hosts: tuple[DemoHost, ...]
    guard: IO[str] = field(repr=False, compare=False)

    @property
    def ssh_config(self) -> Path:
        """For ``ssh -F``, and for the ``ssh_config`` setting."""
        return self.folder / "ssh_config"

    @property
    def hostfile(self) -> Path:
        """The inventory."""
        return self.folder / "hosts.txt"


def apply_start_fleet(
    folder: Path, *, n: int = 2, settings: Mapping[str, object] | None = None
) -> Fleet:
    """Start ``n`` hosts and write the folder's files; ``settings`` add to its invoke.yaml.

    Raises:
        ConfigError: the folder is not ours or in use, or the addresses can't be bound (macOS).
    """
    from provision.demo.sshd import apply_make_key

    folder = folder.absolute()
    guard = apply_claim(folder)
    keys, logs = folder / "keys", folder / "logs"
    for made in (keys, logs):
        made.mkdir(exist_ok=True)
    keys.chmod(0o700)
    (keys / "authorized_keys").write_text(apply_make_key(keys / "id") + "\n")
    ports = json.loads((folder / "fleet.json").read_text())
    hosts: list[DemoHost] = []
    known = ""
    try:
        for index in range(n):
            name, address = f"node{index + 1}", f"127.0.0.{index + 2}"
            public = apply_make_key(keys / name)
            port = read_free_port(address, ports.get(name, 0))
            hosts.append(apply_start_host(folder, name=name, address=address, port=port))
            known += f"[{address}]:{hosts[-1].port} {' '.join(public.split()[:2])}\n"
    except BaseException:
        apply_stop_hosts(hosts)
        guard.close()
        raise
    fleet = Fleet(folder=folder, hosts=tuple(hosts), guard=guard)
    files = {
        "fleet.json": json.dumps({host.name: host.port for host in hosts}),
        "hosts.txt": "".join(f"{host.name} slots=1\n" for host in hosts),
        "invoke.yaml": render_settings(fleet, settings or {}),
        "known_hosts": known,
        "ssh_config": render_ssh_config(fleet, user=getpass.getuser()),
        "tasks.py": render_tasks(CHECKOUT),
    }
    for name, text in files.items():
        (folder / name).write_text(text)
    return fleet


def apply_stop_fleet(fleet: Fleet) -> None:
    """Stop the hosts and everything that runs on them; the folder stays."""
    apply_stop_hosts(fleet.hosts)
    fleet.guard.close()


def apply_claim(folder: Path) -> IO[str]:
    """Make the folder ours, or refuse it; the returned file keeps other fleets out of it."""
    mark = folder / "fleet.json"
    if folder.exists() and not mark.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(
            f"demo folder {folder}",
            found="something else there",
            expected="a new or empty folder, or one of an earlier demo",
            remedy="name another with --folder",
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        guard = mark.open("a")
    except OSError as error:
        raise ConfigError(
            f"demo folder {folder}",
            found=error.strerror,
            expected="a folder that can be written",
            remedy="name another with --folder",
        ) from None
    try:
        fcntl.flock(guard, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        guard.close()
        raise ConfigError(
            f"demo folder {folder}",
            found="a demo that still runs there",
            expected="one at a time",
            remedy="end it with Ctrl-C, or name another with --folder",
        ) from None
    if not mark.stat().st_size:
        mark.write_text("{}")
    return guard


def read_free_port(address: str, wanted: int) -> int:
    """``wanted`` if it is still free on ``address``, else 0 (the host then takes any).

    Raises:
        ConfigError: the address can't be bound at all.
    """
    for port in (wanted, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((address, port))
            except OSError as error:
                found = error.strerror
            else:
                return port
    raise ConfigError(
        f"demo host on {address}",
        found=found,
        expected="Linux, where all of 127.0.0.0/8 is this machine",
        remedy="run the demo on Linux; every other command works from here",
    )


def read_run_port(first: int, *, hosts: int) -> int:
    """A port for runs: ``first``, or the next one of which nothing of this machine uses any part.

    Ranks meet there over TCP, and supervisors talk over UDP at the same number and those after it:
    the hosts are one machine. Where all are taken, preflight says by whom.
    """
    for port in range(first, min(first + 1000, 65536 - hosts), 10):
        with contextlib.ExitStack() as held, contextlib.suppress(OSError):
            for kind, number in ((socket.SOCK_STREAM, port), *(
                (socket.SOCK_DGRAM, port + index) for index in range(hosts)
            )):  # fmt: skip
                probe = held.enter_context(socket.socket(socket.AF_INET, kind))
                if kind == socket.SOCK_STREAM:  # of a run that has just ended
                    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(("", number))
            return port
    return first


def apply_start_host(folder: Path, *, name: str, address: str, port: int) -> DemoHost:
    """Start one host and wait until it listens."""
    home = folder / name
    home.mkdir(exist_ok=True)
    log = folder / "logs" / f"{name}.log"
    argv = [sys.executable, "-m", "provision.demo.sshd", "--address", address, "--port", str(port)]
    argv += ["--home", str(home), "--host-key", str(folder / "keys" / name)]
    argv += ["--authorized-keys", str(folder / "keys" / "authorized_keys")]
    argv += ["--pip-cache", str(read_pip_cache(os.environ))]
    pipe = subprocess.PIPE
    with log.open("w") as errors:
        # Its own session: Ctrl-C is for us, who then stop the hosts in order. Its standard input
        # ends with this process, however that ends.
        server = subprocess.Popen(
            argv, stdin=pipe, stdout=pipe, stderr=errors, text=True,
            env={**os.environ, "PYTHONPATH": str(CHECKOUT)}, start_new_session=True,
        )  # fmt: skip
    assert server.stdout
    ready, _, _ = select.select([server.stdout], [], [], START_SECONDS)
    line = server.stdout.readline() if ready else ""
    host = DemoHost(
        name=name,
        address=address,
        port=json.loads(line)["port"] if line else 0,
        home=home,
        server=server,
    )
    if line:
        return host
    apply_stop_hosts([host])
    said = log.read_text().strip().splitlines() or ["nothing"]
    raise ConfigError(
        f"demo host {name} on {address}",
        found=said[-1],
        expected="an SSH server that listens",
        remedy=f"see {log}",
    )


def apply_stop_hosts(hosts: list[DemoHost] | tuple[DemoHost, ...]) -> None:
    """Let go of the hosts; each takes down what runs on it, and ends."""
    for host in hosts:
        assert host.server.stdin
        host.server.stdin.close()
    for host in hosts:
        try:
            host.server.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            host.server.kill()
            host.server.wait()
        assert host.server.stdout
        host.server.stdout.close()


def read_pip_cache(environ: Mapping[str, str]) -> Path:
    """The user's own pip cache, which the hosts share: a wheel is downloaded once."""
    if environ.get("PIP_CACHE_DIR"):
        return Path(environ["PIP_CACHE_DIR"])
    return Path(environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()) / "pip"


def render_ssh_config(fleet: Fleet, *, user: str) -> str:
    """What ``ssh -F`` and ZeroFleet read. Quotes are for folders with spaces."""
    blocks = [
        f"""\
Host {host.name}
    HostName {host.address}
    Port {host.port}
    User {user}
    IdentityFile "{fleet.folder}/keys/id"
    IdentitiesOnly yes
    IdentityAgent none
    UserKnownHostsFile "{fleet.folder}/known_hosts"
    StrictHostKeyChecking yes
"""
        for host in fleet.hosts
    ]
    return "\n".join(blocks)


def render_settings(fleet: Fleet, settings: Mapping[str, object]) -> str:
    """The folder's invoke.yaml: defaults for the flags of the same names."""
    own: dict[str, Any] = {
        "accelerator": "cpu",
        "ssh_config": str(fleet.ssh_config),
        "hosts": str(fleet.hostfile),
        "wheels": str(fleet.folder / "wheels"),
        "runs": str(fleet.folder / "runs"),
    }
    text = yaml.safe_dump({"zerofleet": own | dict(settings)}, sort_keys=False, width=1000)
    return f"# Written at each start of the demo; flags override it.\n{text}"


def render_tasks(checkout: Path) -> str:
    """A tasks.py that loads the checkout's, so that Invoke finds it and this folder's invoke.yaml.

    Invoke reads the invoke.yaml beside the tasks.py it loads:
    https://docs.pyinvoke.org/en/stable/concepts/configuration.html#the-configuration-hierarchy
    """
    return f"""\
import runpy, sys
sys.path.insert(0, {str(checkout)!r})
globals().update(runpy.run_path({str(checkout / "tasks.py")!r}))
"""
