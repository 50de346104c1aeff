"""The same commands over OpenSSH's own server, in place of the demo's: same homes, real sshd."""

from __future__ import annotations

import getpass
import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from provision.demo.fleet import CHECKOUT, render_tasks

if TYPE_CHECKING:
    from provision.demo.fleet import Fleet
    from tests.integration.conftest import ZfRun

SSHD = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
NOISE = "Welcome to the cluster! {maintenance: tonight}"


def free_port(address: str) -> int:
    with socket.socket() as probe:
        probe.bind((address, 0))
        return int(probe.getsockname()[1])


def start_sshd(folder: Path, address: str, home: Path) -> tuple[subprocess.Popen[bytes], int]:
    """An sshd of this user's own, whose sessions have ``home`` as HOME and greet with noise."""
    folder.mkdir()
    port = free_port(address)
    for name in ("host", "id"):
        argv = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)]
        subprocess.run(argv, check=True)
    greeting = folder / "noise"
    greeting.write_text(f"echo '{NOISE}'\n")
    key = (folder / "id.pub").read_text()
    (folder / "authorized_keys").write_text(
        f'environment="HOME={home}",environment="ENV={greeting}" {key}'
    )
    (folder / "sshd_config").write_text(
        f"ListenAddress {address}:{port}\nHostKey {folder}/host\nPidFile none\nUsePAM no\n"
        f"AuthorizedKeysFile {folder}/authorized_keys\nStrictModes no\nPermitUserEnvironment yes\n"
        "PasswordAuthentication no\nPermitRootLogin prohibit-password\n"
        "Subsystem sftp internal-sftp\n"
    )
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # where root's sshd separates its privileges
    argv = [str(SSHD), "-D", "-e", "-f", str(folder / "sshd_config")]
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stderr=log)
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and server.poll() is None:
        try:
            socket.create_connection((address, port), timeout=1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return server, port
    raise AssertionError((folder / "log").read_text())


@pytest.fixture(scope="module")
def openssh(deployed: Fleet, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An ssh_config by which node1 and node2 are reached over OpenSSH's server."""
    if SSHD is None:
        pytest.skip("no sshd")
    root = tmp_path_factory.mktemp("sshd")
    servers, config, known = [], "", ""
    for number, host in enumerate(deployed.hosts, start=4):
        address, folder = f"127.0.0.{number}", root / host.name
        server, port = start_sshd(folder, address, host.home)
        servers.append(server)
        known += f"[{address}]:{port} {(folder / 'host.pub').read_text()}"
        config += (
            f"Host {host.name}\n HostName {address}\n Port {port}\n User {getpass.getuser()}\n"
            f" IdentityFile {folder}/id\n IdentitiesOnly yes\n"
            f" UserKnownHostsFile {root}/known_hosts\n"
        )
    (root / "known_hosts").write_text(known)
    (root / "ssh_config").write_text(config)
    yield root / "ssh_config"
    for server in servers:
        server.terminate()
        server.wait()


def test_facts_are_those_of_the_same_hosts(openssh: Path, deployed: Fleet, zf_run: ZfRun) -> None:
    done = zf_run(["hosts", "--ssh-config", str(openssh), "--json"], deployed.folder)
    assert done.returncode == 0, done.stderr
    hosts = json.loads(done.stdout)["hosts"]
    assert [hosts[h.name]["home"]["value"] for h in deployed.hosts] == [
        str(h.home) for h in deployed.hosts
    ]


def test_what_the_embedded_hosts_were_given_is_there(
    openssh: Path, deployed: Fleet, zf_run: ZfRun
) -> None:
    done = zf_run(["deploy", "--ssh-config", str(openssh), "--json"], deployed.folder)
    assert done.returncode == 0, done.stderr
    assert [h["changed"] for h in json.loads(done.stdout)["hosts"].values()] == [False, False]


def test_a_run_over_openssh(openssh: Path, deployed: Fleet, zf_run: ZfRun) -> None:
    flags = ["--set", "max_steps=2", "--ssh-config", str(openssh), "--json"]
    done = zf_run(["train", "--zero", "2", *flags], deployed.folder)
    assert done.returncode == 0, done.stderr[-3000:]
    answer = json.loads(done.stdout)
    assert answer["state"] == "finished"
    assert (Path(answer["adapter"]) / "adapter_model.safetensors").is_file()


def test_a_new_key_is_accepted_only_when_asked(
    openssh: Path, deployed: Fleet, zf_run: ZfRun, tmp_path: Path
) -> None:
    known = f"{openssh.parent}/known_hosts"
    config = tmp_path / "ssh_config"
    own = tmp_path / "new" / "known"
    config.write_text(openssh.read_text().replace(known, str(own)))
    flags = ["hosts", "--ssh-config", str(config), "--json"]
    refused = zf_run(flags, deployed.folder)
    assert refused.returncode == 3
    assert not own.exists()
    accepted = zf_run([*flags, "--accept-new"], deployed.folder)
    assert accepted.returncode == 0, accepted.stderr
    assert len(own.read_text().splitlines()) == 2  # where the configuration says, as ssh does


@pytest.fixture
def many(tmp_path: Path) -> Iterator[Path]:
    """A project folder with 64 names for one sshd, one for a server that never says a word, and
    one for a port that nobody listens on. The sshd drops logins beyond ten at once, as they do.
    """
    if SSHD is None:
        pytest.skip("no sshd")
    server, port = start_sshd(tmp_path / "sshd", "127.0.0.1", tmp_path)
    mute, closed = socket.create_server(("127.0.0.1", 0)), socket.socket()
    closed.bind(("127.0.0.1", 0))  # so that nobody else listens there
    names = {f"node{number}": port for number in range(1, 65)}
    ports = names | {"mute": mute.getsockname()[1], "closed": closed.getsockname()[1]}
    key = (tmp_path / "sshd" / "host.pub").read_text()
    (tmp_path / "known").write_text(f"[127.0.0.1]:{port} {key}")
    common = f" User {getpass.getuser()}\n IdentityFile {tmp_path}/sshd/id\n IdentitiesOnly yes\n"
    common += f" HostName 127.0.0.1\n UserKnownHostsFile {tmp_path}/known\n"
    config = "".join(f"Host {name}\n Port {port}\n{common}" for name, port in ports.items())
    (tmp_path / "ssh_config").write_text(config)
    (tmp_path / "hosts.txt").write_text("".join(f"{name}\n" for name in ports))
    settings = {"hosts": "hosts.txt", "ssh_config": "ssh_config", "connect_timeout": 12}
    (tmp_path / "invoke.yaml").write_text(json.dumps({"zerofleet": settings}))
    (tmp_path / "tasks.py").write_text(render_tasks(CHECKOUT))
    yield tmp_path
    mute.close()
    closed.close()
    server.terminate()
    server.wait()


def test_64_hosts_and_two_that_do_not_answer(many: Path, zf_run: ZfRun) -> None:
    began = time.monotonic()
    done = zf_run(["hosts"], many)
    assert done.returncode == 3, done.stderr
    (row,) = [line for line in done.stdout.splitlines() if "node" in line]
    assert row.startswith("node[1-64] "), done.stderr
    assert "error: mute: ssh: found no greeting from" in done.stderr
    assert "error: closed: ssh: found no SSH session to" in done.stderr
    assert "(Connection refused)" in done.stderr
    assert "/66 answered, waiting for " in done.stderr
    assert time.monotonic() - began < 180  # and not the sum of what each may take
