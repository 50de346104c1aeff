"""The hosts file: what is read, and what is refused with its line."""

from __future__ import annotations

import pytest

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
