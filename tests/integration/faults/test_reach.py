"""Hosts that can't be reached or asked, and login shells that make no difference."""

from __future__ import annotations

import re
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING

from tests.integration.cluster.cluster import keygen
from tests.integration.faults.conftest import read_said

if TYPE_CHECKING:
    from tests.integration.faults.conftest import Hosts


def test_a_host_that_is_down(hosts: Hosts) -> None:
    hosts["node3"].off()
    line = hosts.preflight().line("node3", "ssh", code=3)
    assert "10.77.0.3:22" in line
    assert "is the host up" in line


def test_a_host_that_takes_another_key(hosts: Hosts, tmp_path: Path) -> None:
    other = keygen(tmp_path / "other", "another user")
    hosts["node2"].path("/run/sshd/authorized_keys").write_text(other + "\n")
    line = hosts.preflight().line("node2", "ssh", code=3)
    assert "found login refused for root@10.77.0.2:22, expected key authentication" in line
    assert "ssh root@10.77.0.2 true" in line


def test_a_host_whose_key_changed(hosts: Hosts) -> None:
    known = hosts.cluster.folder / "known_hosts"
    text = known.read_text()
    keys = [row.split(None, 1)[1] for row in text.splitlines()]
    known.write_text(text.replace(keys[3], keys[0]))
    try:
        said = hosts.preflight()
    finally:
        known.write_text(text)
    line = said.line("node4", "ssh", code=3)
    assert "found a host key other than the known one (root@10.77.0.4:22)" in line
    assert "if the host was reinstalled: ssh-keygen -R" in line


def test_a_host_without_python(hosts: Hosts) -> None:
    node = hosts["node2"]
    node.run(["sh", "-c", "rm -f /usr/bin/python* /usr/local/bin/python* /bin/python*"])
    line = hosts.preflight().line("node2", "python")
    assert "found none, expected Python 3.8 or later" in line
    assert "install python3 there" in line


def test_login_shells_make_no_difference(hosts: Hosts) -> None:
    noise = "echo 'Welcome {maintenance: tonight}'; echo 'ZEROFLEET<<' >&2; printf 'no newline'\n"
    hosts["node1"].path("~/.bashrc").write_text(noise)
    ssh = ["ssh", "-F", str(hosts.cluster.ssh_config), "node1", "true"]
    assert hosts.cluster.run(ssh).startswith("Welcome")  # bash reads it over SSH too
    for name, shell in (("node2", "fish"), ("node3", "tcsh")):
        path = shutil.which(shell)
        assert path, f"{shell} is not installed (.ci/run installs it)"
        passwd = hosts[name].path("/etc/passwd")
        passwd.write_text(re.sub(r"(?m)^(root:.*:)\S+$", rf"\1{path}", passwd.read_text()))
    hosts.preflight().healthy()


def test_healthy_hosts_ten_times_in_a_row(hosts: Hosts) -> None:
    for _ in range(10):
        hosts.preflight().healthy()


def test_a_host_whose_power_goes_during_preflight(hosts: Hosts) -> None:
    node = hosts["node4"]
    process = hosts.start("preflight", "--answer-timeout", "20")
    # Ours are the only Pythons there: preflight is asking.
    while not any("python" in command for command in node.commands().values()):
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.01)
    node.off()
    said = read_said(process)
    assert said.code == 3, said.stderr
    assert "Traceback" not in said.stderr
    assert [line for line in said.lines if "node4: ssh: " in line], said.stderr
