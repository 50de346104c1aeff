"""When a deploy may take hosts for what they were: all of them say so, and then all still fits."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest

from provision.commands.unchanged import apply_asked, gather_same, judge, known_path
from provision.deploy.spec import make_env_spec
from provision.errors import ConfigError
from provision.hosts.mark import KEPT, Known, apply_known, parse_mark, read_reader
from provision.inventory import parse_inventory
from provision.settings import DEFAULTS, make_settings
from provision.show import Answer

HOSTS = parse_inventory("node1\nnode2\n", "hosts.txt")
SAID = """\
ZEROFLEET-MARK
/proc/sys/kernel/random/boot_id:7f0480e1-7ad6-40d6-8942-0730117f2470
current /home/a/.zerofleet/envs/x
complete.json 81a4 1:2 3 2026-01-01 00:00:00.0 +0000
ZEROFLEET-END
"""


class Answers:
    """A question that was answered."""

    def __init__(self, **said):
        self.said = said

    def gather(self, seconds):
        return self.said


@pytest.fixture
def spec(make_manifest):
    manifest = make_manifest()
    return make_env_spec("sympy==1.14.0 --hash=sha256:bb\n", manifest, Path("x") / manifest.wheel)


@pytest.fixture
def s(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return make_settings(DEFAULTS, {}, tmp_path)


@pytest.fixture
def known(spec, s, make_facts):
    """Two hosts with the environment in use, as a deploy left and kept them."""
    facts = {}
    for host in HOSTS.labels:
        current = {"environment": {"lock": spec.name}, "environments": [spec.name]}
        there = make_facts(host, boot_id=host, **current)
        facts[host] = {name: fact for name, fact in there.as_json().items() if name in KEPT}
    mark = parse_mark(SAID)
    known = Known(
        reader=read_reader(), at=time.time(), marks=dict.fromkeys(facts, mark), facts=facts
    )
    apply_known(known_path(s, HOSTS), known)
    return known


def same(s, spec, **said):
    out = Answer(json=True)
    return gather_same(out, s, HOSTS, spec, Answers(**said)), out


def test_where_every_host_says_what_it_said_there_is_nothing_to_do(s, spec, known, capsys):
    found, out = same(s, spec, node1=SAID, node2=SAID)
    assert found.plan.empty
    assert found.did(spec)["node2"]["bytes_sent"] == 0
    assert found.did(spec)["node2"]["changed"] is False
    assert out.exit == 0
    assert {row["level"] for row in out.values["findings"]} <= {"ok", "note", "warn"}
    assert "every host is as it was on" in capsys.readouterr().err


@pytest.mark.parametrize(
    "said",
    [
        {"node1": SAID},
        {},
        {"node1": SAID, "node2": ""},
        {"node1": SAID, "node2": SAID.replace("envs/x", "envs/y")},
        {"node1": SAID, "node2": SAID.replace("7f04", "7f05")},
        {"node1": SAID, "node2": SAID.removesuffix("END\n")},
        {"node1": SAID, "node2": "bash: sh: command not found"},
    ],
)
def test_else_all_of_it_is_read_again(s, spec, known, said, capsys):
    found, out = same(s, spec, **said)
    assert found is None
    assert "findings" not in out.values
    assert "all of it is read again" in capsys.readouterr().err


def test_another_environment_is_no_matter_of_marks(s, spec, known):
    assert judge(replace(spec, name="00" * 8), s.torch, HOSTS, known) is None
    assert same(s, replace(spec, name="00" * 8), node1=SAID, node2=SAID)[0] is None


def test_a_host_that_does_not_fit_is_asked_again(s, spec, known):
    assert judge(spec, s.torch, HOSTS, known)
    older = {host: {**facts, "glibc": {"value": "2.17"}} for host, facts in known.facts.items()}
    assert judge(spec, s.torch, HOSTS, replace(known, facts=older)) is None
    unread = {host: {**facts, "gpus": {"unknown": "x"}} for host, facts in known.facts.items()}
    cpu = {**unread, "node1": {k: v for k, v in unread["node1"].items() if k != "cpu.level"}}
    assert judge(spec, s.torch, HOSTS, replace(known, facts=cpu)) is None


def test_what_another_program_read_does_not_count(s, spec, known):
    apply_known(known_path(s, HOSTS), replace(known, reader="older"))
    assert same(s, spec, node1=SAID, node2=SAID)[0] is None
    known_path(s, HOSTS).write_text("{")
    assert same(s, spec, node1=SAID, node2=SAID)[0] is None


def test_other_hosts_or_another_way_to_them_are_other_hosts(s):
    paths = {
        known_path(s, HOSTS),
        known_path(replace(s, ssh_config=Path("/x")), HOSTS),
        known_path(s, parse_inventory("node1\n", "hosts.txt")),
        known_path(s, parse_inventory("node1\nana@node2\n", "hosts.txt")),
    }
    assert len(paths) == 4


@pytest.mark.parametrize("change", [{"partial": True}, {"env_source": "existing"}])
def test_nobody_is_asked_where_a_mark_does_not_cover_it(s, known, change):
    with apply_asked(replace(s, **change), HOSTS) as question:
        assert question is None


def test_nobody_is_asked_where_nothing_is_known(s):
    with apply_asked(s, HOSTS) as question:
        assert question is None


def test_a_user_without_a_home_is_told_so(s, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.delenv("HOME", raising=False)
    with pytest.raises(ConfigError, match="neither XDG_CACHE_HOME nor HOME"):
        known_path(s, HOSTS)
