"""A host's network, as read here, and what is made of firewalls' listings."""

from __future__ import annotations

import socket
import subprocess

import pytest

from provision.onhost import probe_net
from provision.onhost.probe_read import Failed

# `nft list ruleset` of a Debian 12 with Docker and one rule of its own, shortened.
NFT = """\
table inet filter {
	set allowed {
		type ipv4_addr
	}

	chain input {
		type filter hook input priority filter; policy drop;
		ct state established,related accept
		tcp dport 22 accept
		ip saddr 10.0.0.3 tcp dport 29500 counter packets 0 bytes 0 drop
	}

	chain forward {
		type filter hook forward priority filter; policy accept;
	}
}
table ip nat {
	chain POSTROUTING {
		type nat hook postrouting priority srcnat; policy accept;
		oifname != "docker0" ip saddr 172.17.0.0/16 masquerade
	}
}
"""
# `iptables -S` with ufw's default policy.
IPTABLES = """\
-P INPUT DROP
-P FORWARD ACCEPT
-P OUTPUT ACCEPT
-N ufw-user-input
-A INPUT -p tcp -m tcp --dport 22 -j ACCEPT
-A INPUT -s 10.0.0.3/32 -p tcp -m tcp --dport 29500 -j REJECT --reject-with icmp-port-unreachable
"""


def test_what_nft_drops_is_found_with_its_chain():
    policies, rules = probe_net.parse_nft(NFT)
    assert policies["inet filter input"] == "drop"
    assert policies["inet filter forward"] == "accept"
    assert "ip nat POSTROUTING" not in policies  # it changes addresses, it filters nothing
    (rule,) = rules
    assert rule.startswith("inet filter input: ip saddr 10.0.0.3 tcp dport 29500")


def test_what_iptables_drops_is_found():
    policies, rules = probe_net.parse_iptables(IPTABLES, "ip filter")
    assert policies == {
        "ip filter INPUT": "drop",
        "ip filter FORWARD": "accept",
        "ip filter OUTPUT": "accept",
    }
    (rule,) = rules
    assert "-j REJECT" in rule


def test_without_root_the_firewall_is_unknown(monkeypatch):
    monkeypatch.setattr(probe_net.os, "geteuid", lambda: 1000)
    with pytest.raises(Failed, match="only root"):
        probe_net.read_firewall()


def test_a_host_without_firewall_commands_is_unknown_not_open(monkeypatch):
    monkeypatch.setattr(probe_net.os, "geteuid", lambda: 0)
    monkeypatch.setattr(probe_net.shutil, "which", lambda *_, **__: None)
    with pytest.raises(Failed, match="no nft or iptables command"):
        probe_net.read_firewall()


def test_addresses_are_those_that_ip_lists():
    """netlink, read by us, against iproute2's own reading of it."""
    listed = subprocess.run(["ip", "-o", "addr"], capture_output=True, text=True, check=True)
    expected = set()
    for line in listed.stdout.splitlines():
        _, name, _, address, *_ = line.split()
        expected.add((name.partition("@")[0], address if "/" in address else None))
    found = {
        (socket.if_indextoname(index), address)
        for index, address in probe_net.read_netlink_addresses()
    }
    assert {pair for pair in expected if pair[1]} <= found
    assert {name for name, _ in found} == {name for name, _ in expected}


@pytest.mark.parametrize(
    ("name", "flags", "driver", "kind"),
    [
        ("lo", probe_net.IFF_LOOPBACK, None, "loopback"),
        ("docker0", 0, "bridge", "bridge"),
        ("veth12ab", 0, "veth", "veth"),
        ("eth0", 0, "veth", "veth"),
        ("bond0", 0, "bonding", "bond"),
        ("eth0.7", 0, "802.1Q VLAN Support", "vlan"),
        ("tailscale0", 0, "tun", "tunnel"),
        ("sit0", 0, None, "tunnel"),
        ("dummy0", 0, "dummy", "virtual"),
    ],
)
def test_kinds_of_interfaces(name, flags, driver, kind):
    assert probe_net.kind_of(name, flags, driver, "") == kind


def test_hardware_is_told_by_its_folder_in_sys(tmp_path):
    (tmp_path / "device").mkdir()
    assert probe_net.kind_of("eth0", 0, "mlx5_core", str(tmp_path)) == "physical"
    (tmp_path / "type").write_text("32\n")
    assert probe_net.kind_of("ib0", 0, "mlx5_core", str(tmp_path)) == "infiniband"


def test_a_name_is_looked_up_once_for_all_its_addresses(monkeypatch):
    rows = [(2, 2, 17, "", ("10.0.0.1", 9)), (2, 2, 17, "", ("10.0.0.1", 9))]
    rows.append((10, 2, 17, "", ("fd00::1", 9, 0, 0)))
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: rows)
    assert probe_net.resolve("node1") == ["10.0.0.1", "fd00::1"]


def test_a_name_server_out_of_reach_is_unknown_and_no_name_is_absent(monkeypatch):
    def fails(number):
        def getaddrinfo(*_, **__):
            raise socket.gaierror(number, "x")

        monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)

    fails(socket.EAI_NONAME)
    assert probe_net.read_hostname_addresses() is None
    fails(socket.EAI_AGAIN)
    with pytest.raises(socket.gaierror):
        probe_net.read_hostname_addresses()
