"""One host over SSH: what a failed connection means. Real connections: tests/integration."""

from __future__ import annotations

import socket
from types import SimpleNamespace

import pytest
from paramiko import ssh_exception as ssh

from provision.errors import ConfigError
from provision.inventory import Host
from provision.remote import SshOptions, explain, make_connection

CXN = SimpleNamespace(user="ubuntu", host="10.0.0.1", port=22)


@pytest.mark.parametrize(
    ("error", "found", "remedy"),
    [
        (ssh.AuthenticationException("x"), "login refused for ubuntu@10.0.0.1:22", "ssh ubuntu@"),
        (ssh.PasswordRequiredException("x"), "login refused", "check user and key"),
        (
            ssh.SSHException("Server '10.0.0.1' not found in known_hosts"),
            "unknown host key",
            "--accept-new",
        ),
        (socket.gaierror(-2, "unknown"), "no address for the name 10.0.0.1", "hosts file"),
        (TimeoutError(), "no answer from ubuntu@10.0.0.1:22", "is the host up"),
        (ConnectionRefusedError(111, "Connection refused"), "no SSH session", "that port"),
        (EOFError(), "no SSH session to ubuntu@10.0.0.1:22 (EOFError)", "that port"),
    ],
)
def test_a_failed_connection_is_one_line_with_a_remedy(error, found, remedy):
    told = explain("node1", error, CXN)
    assert str(told).startswith("node1: ssh: found ")
    assert found in told.found
    assert remedy in told.remedy
    assert told.exit_code == 3


def test_the_remedy_names_a_port_that_is_not_22():
    odd = SimpleNamespace(user="me", host="10.0.0.1", port=2222)
    assert "ssh -p 2222 me@10.0.0.1" in explain("n", ssh.AuthenticationException(), odd).remedy


@pytest.fixture
def config(tmp_path):
    known = tmp_path / "known hosts"
    known.write_text("")
    path = tmp_path / "config"
    path.write_text(
        "Host node1\n  HostName 10.9.9.9\n  User someone\n  Port 2022\n  IdentitiesOnly yes\n"
        f'  IdentityFile "{tmp_path}/my key"\n  UserKnownHostsFile "{known}"\n'
        "Host inner\n  ProxyJump node1\n"
    )
    return SshOptions(config=path)


def test_ssh_config_is_honoured(config):
    cxn = make_connection(Host(name="node1"), config)
    assert (cxn.host, cxn.user, cxn.port) == ("10.9.9.9", "someone", 2022)
    assert cxn.connect_kwargs["look_for_keys"] is False
    assert cxn.connect_kwargs["key_filename"][0].endswith("/my key")


def test_what_the_hosts_file_says_wins(config):
    cxn = make_connection(Host(name="node1", user="root", port=22), config)
    assert (cxn.user, cxn.port) == ("root", 22)


def test_unknown_keys_are_refused_by_default_on_gateways_too(config):
    inner = make_connection(Host(name="inner"), config)
    for cxn in (inner, inner.gateway):
        assert type(cxn.client._policy).__name__ == "RejectPolicy"


def test_accepting_new_keys_is_asked_for(config):
    cxn = make_connection(Host(name="node1"), SshOptions(config=config.config, accept_new=True))
    assert type(cxn.client._policy).__name__ == "AcceptNew"


def test_a_missing_ssh_config_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match="no such file"):
        make_connection(Host(name="node1"), SshOptions(config=tmp_path / "none"))
