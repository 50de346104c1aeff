"""The hosts table: equal hosts on one line, and what can't be known said once."""

from __future__ import annotations

import pytest

from provision.errors import ConfigError
from provision.hosts.summary import COLUMNS, hosts_json, one_fact, parse_fact, summarize

GPU = {"index": "0", "name": "NVIDIA H100 80GB HBM3", "uuid": "GPU-1", "compute_cap": "9.0"}


@pytest.fixture
def fleet(make_facts):
    """Hosts by name; keywords of a name replace its facts."""

    def fleet(*names, **changes):
        return {name: make_facts(name, **changes.get(name, {})) for name in names}

    return fleet


def cell(summary, row, column):
    return summary.rows[row][summary.columns.index(column)]


def test_equal_hosts_are_one_line(fleet):
    summary = summarize(fleet("node1", "node2", "node3", "node9"))
    assert [row[0] for row in summary.rows] == ["node[1-3,9]"]
    assert cell(summary, 0, "os") == "Debian GNU/Linux 12 (bookworm)"
    assert cell(summary, 0, "of") == "25 GB"
    assert summary.unknown == ()


def test_one_that_differs_has_its_own_line(fleet):
    summary = summarize(fleet("node1", "node2", "node3", node2={"glibc": "2.31"}))
    assert [row[0] for row in summary.rows] == ["node1,node3", "node2"]
    assert cell(summary, 1, "glibc") == "2.31"


def test_what_differs_a_little_everywhere_parts_no_hosts(fleet):
    memory = {"total": 25_276_514_304, "available": 20_000_000_000}
    summary = summarize(fleet("node1", "node2", "node3", node2={"memory": memory}))
    assert len(summary.rows) == 1
    assert cell(summary, 0, "memory free") == "20 to 24 GB"


def test_unknown_is_told_apart_and_its_reason_once(fleet):
    why = {"unknown": "nvidia-smi: exit 18: mismatch"}
    gone = {"gpus": why, "gpu.processes": why}
    summary = summarize(fleet("node1", "node2", "node3", "node4", node2=gone, node3=gone))
    assert cell(summary, 1, "gpus") == "unknown"
    assert cell(summary, 0, "gpus") == "-"
    (line,) = summary.unknown
    assert line == "node2,node3: gpu.processes, gpus unknown: nvidia-smi: exit 18: mismatch"


def test_an_unknown_measure_breaks_nothing(fleet):
    summary = summarize(fleet("node1", node1={"memory": {"unknown": "no /proc"}}))
    assert cell(summary, 0, "memory free") == "unknown"


def test_gpus_and_their_use(fleet):
    busy = [{"gpu": "GPU-1", "pid": 7, "name": "python3", "memory": "900", "user": None}]
    gpus = {"gpus": [GPU, {**GPU, "uuid": "GPU-2"}], "gpu.processes": busy}
    summary = summarize(fleet("node1", node1=gpus))
    assert cell(summary, 0, "gpus") == "2 x NVIDIA H100 80GB HBM3"
    assert cell(summary, 0, "in use") == "1 in use"
    assert "in use" not in summarize(fleet("node1")).columns


def test_wide_has_more_columns(fleet):
    hosts = fleet("node1")
    assert "kernel" not in summarize(hosts).columns
    wide = summarize(hosts, wide=True)
    assert cell(wide, 0, "kernel") == "6.1.0-18-amd64"
    assert cell(wide, 0, "network") == "eth0 10G mtu 1500"


def test_every_column_is_made_of_facts_that_exist():
    for column in COLUMNS:
        for fact in column.facts:
            assert parse_fact(fact) == fact


def test_one_fact_is_grouped_by_its_value(fleet):
    hosts = fleet("node1", "node2", "node3", "node4", node4={"gpu.driver": "550.54.15"})
    summary = one_fact(hosts, "gpu.driver")
    assert summary.columns == ("host", "hosts", "gpu.driver")
    assert summary.rows == (("node[1-3]", "3", "-"), ("node4", "1", "550.54.15"))
    assert one_fact(hosts, "ports.ephemeral").rows[0][2] == "[32768, 60999]"


def test_a_fact_that_does_not_exist_is_refused_with_the_closest():
    with pytest.raises(ConfigError, match=r"did you mean gpu\.driver\?"):
        parse_fact("gpu.drivers")
    with pytest.raises(ConfigError, match="--json names them all"):
        parse_fact("♥")


def test_json_is_never_grouped(fleet):
    hosts = fleet("node1", "node2")
    assert set(hosts_json(hosts)) == {"node1", "node2"}
    assert hosts_json(hosts, "glibc")["node2"] == {"glibc": {"value": "2.36"}}
