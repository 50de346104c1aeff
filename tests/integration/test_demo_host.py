"""The demo's SSH host is a real one: OpenSSH's client and Fabric's can't tell the difference."""

from __future__ import annotations

import getpass
import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import fabric
import pytest
from paramiko.config import SSHConfig

from provision.demo.fleet import CHECKOUT, Fleet, apply_start_fleet, apply_stop_fleet


def ssh(fleet: Fleet, *command: str, **options: object) -> subprocess.CompletedProcess[bytes]:
    argv = ["ssh", "-F", str(fleet.ssh_config), "-o", "BatchMode=yes", *command]
    return subprocess.run(argv, capture_output=True, timeout=300, check=False, **options)


def alive(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):  # it may end between open and read
        return False


def wait_for(what: Callable[[], bool], seconds: float = 120) -> bool:
    deadline = time.monotonic() + seconds
    while not what():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


@pytest.fixture
def cxn(fleet: Fleet) -> fabric.Connection:
    config = fabric.Config(ssh_config=SSHConfig.from_path(str(fleet.ssh_config)))
    with fabric.Connection("node1", config=config) as cxn:
        yield cxn


def test_a_command_runs_in_the_hosts_own_home(fleet: Fleet) -> None:
    done = ssh(fleet, "node2", 'cd /; cd; pwd; echo "$HOME"; echo "$USER"; exit 7')
    home = str(fleet.hosts[1].home)
    assert done.stdout.decode().splitlines() == [home, home, getpass.getuser()]
    assert done.returncode == 7


def test_every_byte_passes_both_ways_and_end_of_file_too(fleet: Fleet) -> None:
    blob = os.urandom(5_000_000) + bytes(range(256))
    assert ssh(fleet, "node1", "cat", input=blob).stdout == blob
    digest = ssh(fleet, "node1", "sha256sum", input=blob).stdout.split()[0].decode()
    assert digest == hashlib.sha256(blob).hexdigest()


def test_output_and_errors_stay_apart(fleet: Fleet) -> None:
    done = ssh(fleet, "node1", "echo out; echo err >&2")
    assert (done.stdout, done.stderr) == (b"out\n", b"err\n")


def test_a_command_may_leave_its_input_unread(fleet: Fleet) -> None:
    done = ssh(fleet, "node1", "head -c 1 >/dev/null; echo read one", input=bytes(3_000_000))
    assert (done.stdout, done.returncode) == (b"read one\n", 0)


def test_death_by_signal_is_told_as_such(fleet: Fleet) -> None:
    assert ssh(fleet, "node1", "kill -9 $$").returncode == 255


def test_a_terminal_is_one(fleet: Fleet) -> None:
    done = ssh(fleet, "-tt", "node1", "test -t 0 && test -t 1 && echo yes; exit 3")
    assert (done.stdout.strip(), done.returncode) == (b"yes", 3)


@pytest.mark.parametrize(
    "options", [["-o", "IdentityFile=none", "-o", "IdentitiesOnly=no"], ["-l", "nobody"]]
)
def test_only_this_user_with_this_key_gets_in(fleet: Fleet, options: list[str]) -> None:
    argv = [*options, "-o", "PreferredAuthentications=publickey,password", "node1", "true"]
    config = fleet.folder / "no_key_config"
    lines = fleet.ssh_config.read_text().splitlines()
    config.write_text("\n".join(x for x in lines if "nobody" in options or "IdentityFile" not in x))
    home = {**os.environ, "HOME": str(fleet.folder)}
    done = subprocess.run(
        ["ssh", "-F", str(config), "-o", "BatchMode=yes", *argv],
        capture_output=True, text=True, timeout=300, env=home, check=False,
    )  # fmt: skip
    assert done.returncode == 255
    assert "Permission denied (publickey)" in done.stderr


def test_fabric_runs_and_puts(cxn: fabric.Connection, fleet: Fleet, tmp_path: Path) -> None:
    source = tmp_path / "bytes"
    source.write_bytes(os.urandom(1_000_000))
    cxn.put(str(source), "relative")  # starts from the home folder
    cxn.put(str(source), str(tmp_path / "absolute"))
    assert (fleet.hosts[0].home / "relative").read_bytes() == source.read_bytes()
    assert (tmp_path / "absolute").read_bytes() == source.read_bytes()
    assert cxn.run("exit 5", warn=True, hide=True, in_stream=False).exited == 5


def test_many_commands_at_once(cxn: fabric.Connection) -> None:
    from concurrent.futures import ThreadPoolExecutor

    cxn.open()
    with ThreadPoolExecutor(8) as pool:
        said = list(
            pool.map(
                lambda i: cxn.run(
                    f"sleep 0.1; echo {i}", hide=True, in_stream=False
                ).stdout.strip(),
                range(16),
            )
        )
    assert said == [str(i) for i in range(16)]


def test_a_client_that_dies_takes_its_terminal_but_not_a_daemon(fleet: Fleet) -> None:
    home = fleet.hosts[0].home
    script = (
        "setsid sh -c 'echo $$ > daemon; exec sleep 600' >/dev/null 2>&1 </dev/null & "
        "echo $$ > session; exec sleep 600"
    )
    client = subprocess.Popen(
        ["ssh", "-F", str(fleet.ssh_config), "-tt", "node1", script],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    pids = [home / "daemon", home / "session"]
    assert wait_for(lambda: all(p.exists() and p.read_text().strip() for p in pids))
    daemon, session = (int(p.read_text()) for p in pids)
    client.kill()
    client.wait()
    assert wait_for(lambda: not alive(session))
    assert alive(daemon)
    os.kill(daemon, signal.SIGKILL)
    for pid in pids:
        pid.unlink()


def test_stopping_a_host_leaves_no_process(tmp_path: Path) -> None:
    fleet = apply_start_fleet(tmp_path / "one", n=1)
    try:
        ssh(fleet, "node1", "setsid sh -c 'trap \"\" TERM; echo $$ > pid; sleep 600; sleep 600' "
                            ">/dev/null 2>&1 </dev/null &")  # fmt: skip
        file = fleet.hosts[0].home / "pid"
        assert wait_for(lambda: file.exists() and bool(file.read_text().strip()))
        assert alive(int(file.read_text()))
    finally:
        apply_stop_fleet(fleet)
    assert not alive(int(file.read_text()))
    assert fleet.hosts[0].server.returncode == 0


def test_a_host_does_not_outlive_who_started_it(tmp_path: Path) -> None:
    program = (
        "import os, signal, sys\nfrom pathlib import Path\n"
        "from provision.demo.fleet import apply_start_fleet\n"
        "fleet = apply_start_fleet(Path(sys.argv[1]), n=1)\n"
        "print(fleet.hosts[0].server.pid, flush=True)\nos.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "one")],
        cwd=CHECKOUT, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == -signal.SIGKILL
    server = int(done.stdout)
    assert wait_for(lambda: not alive(server))


def test_keys_and_ports_are_kept_between_starts(tmp_path: Path) -> None:
    seen = []
    for _ in range(2):
        fleet = apply_start_fleet(tmp_path / "again", n=1)
        seen.append((fleet.folder / "known_hosts").read_text())
        assert ssh(fleet, "node1", "true").returncode == 0
        apply_stop_fleet(fleet)
    assert seen[0] == seen[1]
    assert (tmp_path / "again" / "keys" / "id").stat().st_mode & 0o777 == 0o600
