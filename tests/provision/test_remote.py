"""SSH connections: whom they trust, what a failed one means. Real ones: tests/integration."""

from __future__ import annotations

import socket
from types import SimpleNamespace

import pytest
from paramiko import Transport
from paramiko import ssh_exception as ssh

from provision.errors import ConfigError
from provision.inventory import Host
from provision.remote import SshOptions, explain, hung_up, make_connection, read_ssh_files


def connect(name, options, **keywords):
    return make_connection(Host(name=name, **keywords), options, read_ssh_files(options))


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
        (
            ssh.NoValidConnectionsError({("10.0.0.1", 22): OSError(111, "Connection refused")}),
            "no SSH session to ubuntu@10.0.0.1:22 (Connection refused)",
            "that port",
        ),
        (ssh.SSHException("Error reading SSH protocol banner"), "no greeting from", "overloaded"),
        (ssh.SSHException("No existing session"), "no greeting from", "overloaded"),
        (EOFError(), "to ubuntu@10.0.0.1:22 (the connection ended)", "that port"),
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
    cxn = connect("node1", config)
    assert (cxn.host, cxn.user, cxn.port) == ("10.9.9.9", "someone", 2022)
    assert cxn.connect_kwargs["look_for_keys"] is False
    assert cxn.connect_kwargs["key_filename"][0].endswith("/my key")


def test_what_the_hosts_file_says_wins(config):
    cxn = connect("node1", config, user="root", port=22)
    assert (cxn.user, cxn.port) == ("root", 22)


def test_unknown_keys_are_refused_by_default_on_gateways_too(config):
    inner = connect("inner", config)
    for cxn in (inner, inner.gateway):
        assert type(cxn.client._policy).__name__ == "RejectPolicy"


def test_accepting_new_keys_is_asked_for(config):
    cxn = connect("node1", SshOptions(config=config.config, accept_new=True))
    assert type(cxn.client._policy).__name__ == "AcceptNew"


def test_a_missing_ssh_config_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match="no such file"):
        read_ssh_files(SshOptions(config=tmp_path / "none"))


@pytest.mark.parametrize("text", [b"Host node1\n  Port abc\n", b"Host \xe9\n", b"Host\n", b"%\n"])
def test_an_ssh_config_that_openssh_would_refuse_is_one_line(text, tmp_path):
    (tmp_path / "config").write_bytes(text)
    with pytest.raises(ConfigError, match=r"ssh_config.*`ssh -G "):
        connect("node1", SshOptions(config=tmp_path / "config"))


def test_known_hosts_that_cannot_be_read_vouch_for_nothing(tmp_path):
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    (tmp_path / "config").write_text(f"UserKnownHostsFile {tmp_path} {loop} {loop}/known_hosts\n")
    cxn = connect("node1", SshOptions(config=tmp_path / "config"))
    assert not cxn.client.get_host_keys().lookup("node1")


def known(tmp_path, text, name="node1", **keywords):
    """The host keys that a connection trusts, with this known_hosts file."""
    (tmp_path / "known hosts").write_text(text)
    options = SshOptions(config=tmp_path / "config")
    cxn = connect(name, options, **keywords)
    host = cxn.host if cxn.port == 22 else f"[{cxn.host}]:{cxn.port}"
    return dict(cxn.client.get_host_keys().lookup(host) or {})


@pytest.fixture
def key():
    from paramiko import Ed25519Key
    from paramiko.pkey import PKey

    raw = b"\0\0\0\x0bssh-ed25519\0\0\0 " + bytes(range(32))
    made = PKey.from_type_string("ssh-ed25519", raw)
    assert isinstance(made, Ed25519Key)
    return made.get_base64()


@pytest.mark.usefixtures("config")
def test_a_known_key_is_trusted_for_its_name_and_port_only(tmp_path, key):
    here = f"[10.9.9.9]:2022 ssh-ed25519 {key} comment\n"
    assert set(known(tmp_path, here)) == {"ssh-ed25519"}
    assert known(tmp_path, here, port=22) == {}
    assert known(tmp_path, f"10.9.9.9 ssh-ed25519 {key}\n") == {}
    assert known(tmp_path, f"other,[10.9.9.9]:2022 ssh-ed25519 {key}\n")


@pytest.mark.usefixtures("config")
def test_a_hashed_name_is_recognised(tmp_path, key):
    from paramiko.hostkeys import HostKeys

    name = HostKeys.hash_host("[10.9.9.9]:2022")
    assert known(tmp_path, f"{name} ssh-ed25519 {key}\n")
    assert known(tmp_path, f"{HostKeys.hash_host('10.9.9.9')} ssh-ed25519 {key}\n") == {}


@pytest.mark.usefixtures("config")
@pytest.mark.parametrize(
    "line", ["# [10.9.9.9]:2022 ssh-ed25519 {}", "@revoked {}", "[10.9.9.9]:2022"]
)
def test_other_lines_vouch_for_nothing(tmp_path, key, line):
    assert known(tmp_path, line.format(f"[10.9.9.9]:2022 ssh-ed25519 {key}") + "\n") == {}


@pytest.mark.usefixtures("config")
def test_a_broken_line_hides_no_other(tmp_path, key):
    good = f"[10.9.9.9]:2022 ssh-ed25519 {key}\n"
    assert known(tmp_path, "[10.9.9.9]:2022 ssh-ed25519 no!base64\n" + good)


def test_keys_of_one_host_are_not_tried_on_another(config):
    files = read_ssh_files(config)
    first = make_connection(Host(name="node1"), config, files)
    other = make_connection(Host(name="elsewhere"), config, files)
    assert first.connect_kwargs["key_filename"]
    assert "key_filename" not in other.connect_kwargs


def test_connections_share_nothing_that_changes(config):
    files = read_ssh_files(config)
    first, second = (make_connection(Host(name="node1"), config, files) for _ in range(2))
    assert first.config is not second.config
    assert first.config.base_ssh_config is second.config.base_ssh_config
    assert first.connect_kwargs is not second.connect_kwargs


@pytest.mark.parametrize(
    ("error", "again"),
    [
        (EOFError(), True),
        (ConnectionResetError(104, "reset"), True),
        (ssh.AuthenticationException("no"), False),
        (ConnectionRefusedError(111, "refused"), False),
        (TimeoutError(), False),
    ],
)
def test_only_a_server_that_hangs_up_is_asked_again(error, again):
    assert hung_up(error) is again


@pytest.mark.parametrize(
    ("said", "closes", "again"),
    [(b"", True, True), (b"Exceeded\r\n", True, True), (b"", False, False)],
)
def test_paramiko_tells_a_server_that_hangs_up_from_one_that_is_silent(said, closes, again):
    ours, theirs = socket.socketpair()
    with theirs, ours:
        theirs.sendall(said)
        if closes:
            theirs.shutdown(socket.SHUT_WR)
        transport = Transport(ours)
        transport.banner_timeout = 0.001
        with pytest.raises(ssh.SSHException, match="protocol banner") as failed:
            transport.start_client(timeout=20)
        assert hung_up(failed.value) is again
        transport.close()
