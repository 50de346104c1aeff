"""The hosts file: what is read, and what is refused with its line."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provision.errors import ConfigError
from provision.inventory import Host, parse_inventory, read_inventory


def test_reads_deepspeeds_format_bare_names_and_addresses():
    text = """
    # the rack on the left
    node1 slots=8
    node2   slots=4   # two are broken

    ubuntu@10.0.0.3:2222 slots=2
    node4
    [fe80::1]:2200
    """
    assert parse_inventory(text, "hosts.txt").hosts == (
        Host(name="node1", slots=8),
        Host(name="node2", slots=4),
        Host(name="10.0.0.3", user="ubuntu", port=2222, slots=2),
        Host(name="node4"),
        Host(name="fe80::1", port=2200),
    )


def test_order_is_node_rank_order_and_labels_show_a_given_port():
    assert parse_inventory("b\na:2222\n", "x").labels == ("b", "a:2222")


def test_ipv6_addresses_bare_and_in_brackets():
    text = "::1\n[::1]:22 slots=2\nroot@[2001:db8::7]:2222\nfe80::1%eth0\n::ffff:10.0.0.1\n"
    hosts = parse_inventory(text, "x").hosts
    assert [(h.user, h.name, h.port) for h in hosts] == [
        (None, "::1", None),
        (None, "::1", 22),
        ("root", "2001:db8::7", 2222),
        (None, "fe80::1%eth0", None),
        (None, "::ffff:10.0.0.1", None),
    ]
    assert [h.label for h in hosts][1:3] == ["[::1]:22", "[2001:db8::7]:2222"]


@pytest.mark.parametrize("name", ["nœud1", "узел-7", "機械", "नोड", "knoten_1.local", "a+b"])
def test_names_of_any_script(name):
    assert parse_inventory(f"{name} slots=2", "x").labels == (name,)


def test_a_file_from_another_systems_editor():
    text = "\ufeffnode1\r\nnode2 slots=8\t\r\n"
    assert parse_inventory(text, "x").hosts == (Host(name="node1"), Host(name="node2", slots=8))


def test_ten_thousand_lines():
    text = "".join(f"gpu@10.{n // 256}.{n % 256}.7 slots=8  # rack {n}\n" for n in range(10_000))
    assert len(parse_inventory(text, "x")) == 10_000
    with pytest.raises(ConfigError) as caught:
        parse_inventory(text + "10.0.3.7\nx@10.0.0.7\n", "hosts.txt")
    assert str(caught.value).startswith("hosts.txt:10001")
    found = "10.0.3.7 again (first on line 4); also 10.0.0.7 on lines 1 and 10002"
    assert caught.value.found == found


def test_one_address_with_two_ports_is_two_hosts():
    assert len(parse_inventory("127.0.0.1:2222\n127.0.0.1:2223\n", "x")) == 2


@pytest.mark.parametrize(
    ("text", "where", "found"),
    [
        ("node1\nnode2\nnode1 slots=4\n", "hosts.txt:3", "node1 again (first on line 1)"),
        ("node1\na@node1\n", "hosts.txt:2", "node1 again"),
        ("node1 slots=eight", "hosts.txt:1", "slots=eight"),
        ("node1 slots=0", "hosts.txt:1", "slots=0"),
        ("node1 gpus=8", "hosts.txt:1", "gpus=8"),
        ("node1:99999", "hosts.txt:1", "port 99999"),
        ("node1 node2", "hosts.txt:1", "node1 node2"),
        ("ssh -p 22 node1", "hosts.txt:1", "ssh -p 22"),
        ("Node1\nnode1", "hosts.txt:2", "node1 again (first on line 1)"),
        ("::1\n0:0::1", "hosts.txt:2", "0:0::1 again (first on line 1)"),
        ("[::1", "hosts.txt:1", "[::1"),
        ("[node1]:22", "hosts.txt:1", "[node1]:22"),
        ("1::2::3", "hosts.txt:1", "1::2::3"),
        ("node1:" + "9" * 5000, "hosts.txt:1", "node1:999"),
        ("node1:999999999", "hosts.txt:1", "port 999999999"),
        ("node1 slots=٤", "hosts.txt:1", "slots="),
        (";rm -rf ~", "hosts.txt:1", ";rm -rf ~"),
        (";rm${IFS}-rf${IFS}~", "hosts.txt:1", "the host name ';rm"),
        ("$(reboot)@node1", "hosts.txt:1", "the user name '$(reboot)'"),
        ("@node1", "hosts.txt:1", "the user name ''"),
        ("-oProxyCommand=x", "hosts.txt:1", "the host name '-oProxy"),
        ("../../etc", "hosts.txt:1", "the host name '../../etc'"),
        ("..", "hosts.txt:1", "the host name '..'"),
        ("fe80::1%`id`", "hosts.txt:1", "fe80::1%`id`"),
        ("node1\x0bnode2", "hosts.txt:1", "\\x0b"),
        ("node1\nno\x1b[2Jde", "hosts.txt:2", r"'no\x1b[2Jde'"),
        ("node1\n\nno\u202ede", "hosts.txt:3", r"'no\u202ede'"),
        ("", "hosts.txt", "no host"),
        ("# only this\n\n", "hosts.txt", "no host"),
    ],
)
def test_refuses_with_file_and_line(text, where, found):
    with pytest.raises(ConfigError) as caught:
        parse_inventory(text, "hosts.txt")
    assert str(caught.value).startswith(where)
    assert found in caught.value.found
    assert caught.value.exit_code == 2


def test_a_missing_file_is_one_clear_error(tmp_path):
    with pytest.raises(ConfigError, match=r"No such file.*--hosts FILE"):
        read_inventory(tmp_path / "hosts.txt")


def test_a_binary_file_is_one_clear_error(tmp_path):
    path = tmp_path / "hosts.txt"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="not UTF-8"):
        read_inventory(path)


NO_MARKS = st.characters(exclude_categories=["Mn", "Mc", "Me"])


@given(st.text(NO_MARKS, max_size=40) | st.from_regex(r"\S+@\S+:\d+ slots=\d+", fullmatch=True))
def test_whatever_the_line_it_is_a_harmless_name_or_one_clear_error(line):
    """A name that passes holds nothing that a shell, a path or a terminal takes for more."""
    hosts, said = (), ""
    try:
        hosts = parse_inventory(line, "hosts.txt").hosts
    except ConfigError as error:
        said = str(error)
    assert said.isprintable()
    assert len(said) < 400
    for host in hosts:
        for text in (host.name, host.user or "x"):
            assert all(c.isalnum() or c in "._+-:%" for c in text)
            assert text not in (".", "..")
            assert not text.startswith("-")


def test_a_hosts_own_python_is_a_path_of_that_host():
    text = "node1 slots=8 python=/opt/conda/bin/python\nnode2 python=~/venv/bin/python3\nnode3\n"
    pythons = [host.python for host in parse_inventory(text, "x").hosts]
    assert pythons == ["/opt/conda/bin/python", "~/venv/bin/python3", None]
    with pytest.raises(ConfigError, match="python=PATH"):
        parse_inventory("node1 python=venv/bin/python", "x")
