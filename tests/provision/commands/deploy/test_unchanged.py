"""When a deploy may answer as the one before it: nothing changed here, and every host says so."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, replace

import pytest

from provision.commands.deploy import unchanged
from provision.commands.deploy.unchanged import (
    done_path,
    gather_unchanged,
    make_done,
    read_done,
    read_inputs,
)
from provision.deploy.spec import make_env_spec
from provision.errors import ConfigError, UnreachableError
from provision.hosts.facts import Gathered
from provision.inventory import parse_inventory
from provision.settings import DEFAULTS, make_settings
from provision.show import Answer, Stop

HOSTS = parse_inventory("node1\nnode2\n", "hosts.txt")
SAID = """\
ZEROFLEET-MARK
/proc/sys/kernel/random/boot_id:7f0480e1-7ad6-40d6-8942-0730117f2470
current /home/a/.zerofleet/envs/x
complete.json 81a4 1:2 3 2026-01-01 00:00:00.0 +0000
ZEROFLEET-END
"""
#: In place of ssh: what each host says is in a file of its name.
SSH = '#!/bin/sh\nwhile test $# -gt 2; do shift; done\nexec cat "$ANSWERS/$1"\n'


@pytest.fixture
def s(tmp_path, monkeypatch):
    """Settings of a project with a wheel and a lock, on a machine with a cache of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "wheels").mkdir()
    (tmp_path / "wheels" / "deepspeed-0.19.8.whl").write_text("")
    (tmp_path / "zerofleet.env.lock").write_text("a lock")
    return make_settings(DEFAULTS, {"wheels": "wheels"}, tmp_path)


@pytest.fixture
def spec(make_manifest, tmp_path):
    manifest = make_manifest()
    return make_env_spec("sympy==1.14.0 --hash=sha256:bb\n", manifest, tmp_path / manifest.wheel)


@pytest.fixture
def gathered(spec, make_facts):
    """Two hosts with the environment in use."""
    current = {"environment": {"lock": spec.name}, "environments": [spec.name]}
    facts = {host: make_facts(host, boot_id=host, **current) for host in HOSTS.labels}
    return Gathered(facts=facts, errors={}, marks=dict.fromkeys(facts, SAID))


@pytest.fixture
def done(s, spec, gathered):
    """What the deploy before this one kept."""
    done = make_done(spec, s.torch, read_inputs(s), gathered)
    path = done_path(s, HOSTS)
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(asdict(done)))
    return done


@pytest.fixture
def answers(tmp_path, monkeypatch):
    """What hosts say to ssh: a file for each."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "ssh").write_text(SSH)
    (tmp_path / "bin" / "ssh").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    monkeypatch.setenv("ANSWERS", str(tmp_path))
    for host in HOSTS.labels:
        (tmp_path / host).write_text(SAID)
    return tmp_path


def test_where_every_host_says_what_it_said_the_answer_is_what_it_was(s, done, answers, capsys):
    out = Answer(json=False)
    assert gather_unchanged(out, s, HOSTS)
    assert out.values["hosts"]["node2"] == {
        "changed": False, "bytes_sent": 0, "env": done.hosts["node2"]["env"],
    }  # fmt: skip
    assert out.values["findings"] == done.findings
    assert out.exit == 0
    shown = capsys.readouterr()
    assert "every host is as it was on" in shown.err
    assert "nothing to do" in shown.err
    assert "node1: /" in shown.out


def test_a_dry_run_shows_a_plan_without_a_step(s, done, answers):
    out = Answer(json=True, dry_run=True)
    with pytest.raises(Stop):
        gather_unchanged(out, s, HOSTS)
    assert out.values["plan"]["phases"] == []


@pytest.mark.parametrize(
    "said",
    [
        None,
        "",
        "bash: sh: command not found",
        SAID.replace("envs/x", "envs/y"),
        SAID.replace("7f04", "7f05"),
        SAID.removesuffix("END\n"),
    ],
)
def test_a_host_that_says_anything_else_has_all_of_it_read_again(s, done, answers, said, capsys):
    if said is None:
        (answers / "node2").unlink()
    else:
        (answers / "node2").write_text(said)
    out = Answer(json=True)
    assert not gather_unchanged(out, s, HOSTS)
    assert out.values == {}
    assert "all of it is read again" in capsys.readouterr().err


def other_lock(s):
    (s.hosts.parent / "zerofleet.env.lock").write_text("A lock")


def no_own_lock(s):
    (s.hosts.parent / "zerofleet.env.lock").unlink()


def other_wheel(s):
    (s.wheels / "deepspeed-0.19.8.whl").write_text("x")


def another_wheel(s):
    (s.wheels / "extra-1.0.whl").write_text("")


def other_manifest(s):
    (s.wheels / "deepspeed-0.19.8.whl.json").write_text("{}")


@pytest.mark.parametrize(
    "change", [other_lock, no_own_lock, other_wheel, another_wheel, other_manifest]
)
def test_whatever_changes_here_counts(s, done, answers, change):
    change(s)
    assert not gather_unchanged(Answer(json=True), s, HOSTS)


@pytest.mark.parametrize(
    "changes",
    [
        {"torch": "2.12.0"},
        {"wheel": "deepspeed-0.19.8.whl"},
        {"env_source": "index"},
        {"env_source": "existing"},
        {"partial": True},
    ],
)
def test_other_settings_count(s, done, answers, changes):
    assert not gather_unchanged(Answer(json=True), replace(s, **changes), HOSTS)


def test_our_own_rules_count(s, tmp_path, monkeypatch):
    (tmp_path / "provision").mkdir()
    (tmp_path / "provision" / "compat.py").write_text("1")
    monkeypatch.setattr(unchanged, "CHECKOUT", tmp_path)
    before = read_inputs(s)
    (tmp_path / "provision" / "compat.cpython-311.pyc.7").write_text("as Python writes bytecode")
    assert read_inputs(s) == before
    (tmp_path / "provision" / "compat.py").write_text("12")
    assert read_inputs(s) != before


def test_what_is_broken_is_as_if_it_were_not_there(s, done, answers):
    path = done_path(s, HOSTS)
    assert read_done(path) == done
    failing = [{**done.findings[0], "level": "error"}]
    for text in (
        "",
        "[]",
        "{}",
        path.read_text()[:-9],
        json.dumps(asdict(replace(done, findings=failing))),
    ):
        path.write_text(text)
        assert read_done(path) is None
        assert not gather_unchanged(Answer(json=True), s, HOSTS)


def test_other_hosts_or_another_way_to_them_are_other_hosts(s, tmp_path):
    paths = {
        done_path(s, HOSTS),
        done_path(replace(s, ssh_config=tmp_path / "x"), HOSTS),
        done_path(s, parse_inventory("node1\n", "hosts.txt")),
        done_path(s, parse_inventory("node1\nana@node2\n", "hosts.txt")),
    }
    assert len(paths) == 4


def test_nothing_is_kept_of_hosts_of_which_one_is_not_well(s, spec, gathered):
    one = gathered.facts["node1"]
    older = replace(one, facts={**one.facts, "glibc": replace(one["glibc"], value="2.17")})
    unread = replace(
        one, facts={**one.facts, "glibc": replace(one["glibc"], unknown="x", value=None)}
    )
    lacking = replace(one, facts={**one.facts, "environments": replace(one["glibc"], value=[])})
    error = UnreachableError("node3: ssh", found="x", expected="y", remedy="z")
    assert make_done(spec, s.torch, "i", gathered)
    for facts in (older, unread, lacking):
        worse = replace(gathered, facts={**gathered.facts, "node1": facts})
        assert make_done(spec, s.torch, "i", worse) is None
    assert make_done(spec, s.torch, "i", replace(gathered, errors={"node3": error})) is None
    assert make_done(spec, s.torch, "i", replace(gathered, marks={"node1": SAID})) is None
    assert make_done(replace(spec, name="00" * 8), s.torch, "i", gathered) is None


def test_nothing_is_kept_where_a_rule_goes_by_what_no_mark_covers(s, spec, gathered, monkeypatch):
    monkeypatch.setattr(unchanged, "COVERED", unchanged.COVERED - {"glibc"})
    assert make_done(spec, s.torch, "i", gathered) is None


def test_a_user_without_a_home_is_told_so(s, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.delenv("HOME", raising=False)
    with pytest.raises(ConfigError, match="neither XDG_CACHE_HOME nor HOME"):
        done_path(s, HOSTS)
