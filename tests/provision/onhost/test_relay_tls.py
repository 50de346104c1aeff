"""Who is let in to a push, between real processes: see relay_host.py."""

from __future__ import annotations

from pathlib import Path

from tests.provision.onhost.relay_host import TOKEN, Push, fed, nothing_installed


def test_a_wrong_token_is_refused_by_name(hosts, push) -> None:
    first, second, port = fed(hosts, push)
    second.begin(push, token="cd" * 32)
    second.fetch("node1", port)
    failed = second.answer()
    assert (failed["what"], failed["found"]) == ("relay of node1", "it refuses our token")
    assert nothing_installed(second, push)
    first.until("refused a connection from 127.0.0.1: it does not know the token")


def test_a_wrong_certificate_is_refused_by_name(hosts, push) -> None:
    _first, second, port = fed(hosts, push)
    second.begin(push, **Push().secret)
    second.fetch("node1", port)
    failed = second.answer()
    assert (failed["what"], failed["found"]) == ("relay of node1", "another certificate")
    assert nothing_installed(second, push)


def test_a_host_without_ssl_gets_all_from_the_controller(hosts, push) -> None:
    (host,) = hosts("node1")
    begun = host.begin(push, cert="no certificate")
    assert "port" not in begun
    assert begun["closed"]
    host.fetch("")
    host.feed(push)
    assert host.answer()["event"] == "done"


def test_key_and_token_are_on_no_command_line_and_in_no_file(hosts, push) -> None:
    first, _, _ = fed(hosts, push)
    secrets = (TOKEN, push.secret["key"].splitlines()[1])
    command = Path(f"/proc/{first.process.pid}/cmdline").read_text()
    files = [p.read_bytes() for p in first.home.rglob("*") if p.is_file()]
    for secret in secrets:
        assert secret not in command
        assert not [data for data in files if secret.encode() in data]
    assert [path.name for path in first.home.iterdir()] == [".zerofleet"]
