"""May a run start? Every room's findings count, and a host that can't be asked ends it at once."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from provision import errors
from provision.commands.push.push import read_what
from provision.commands.train import readiness
from provision.commands.train.readiness import gather_readiness
from provision.deploy.spec import EnvSpec, make_env_spec
from provision.errors import ConfigError
from provision.findings import Finding, Level, Report
from provision.hosts.facts import parse_facts
from provision.hosts.lock import Lock, make_lock
from provision.memory.advise import Room, advise
from provision.memory.judge import RunMemory
from provision.memory.read import read_model
from provision.memory.spec import MemorySpec
from provision.preflight.mesh import Mesh
from provision.preflight.ready import Ready, Wanted
from provision.settings import Settings, make_settings
from provision.show import Answer, Stop

PROBE = Path(__file__).parents[3] / "facts" / "probe-debian12-cpu.json"
NODES = ("node1", "node2")
ANSWER: dict[str, Any] = {
    "cpu_seconds": 0.001,
    "folders": [{"path": "~/.zerofleet/runs", "nearest": "/", "free": 9e9, "inodes": 10**6}],
    "model": None, "rows": None, "data": None, "ops": {"loads": True}, "logout": {"kills": False},
    "locks": [],
}  # fmt: skip
PEER = {
    "ports": dict.fromkeys(map(str, range(33000, 58000, 5000)), 0.001),
    "exchange": {"count": 100, "median": 1e-4, "tcp": [[0, 104], [0, 102]]},
    "packets": {"up": 65536, "down": 65536, "of": 65536, "mtu": 1500},
}
HELLO = {"ports": [33001], "range": [32768, 60999], "own": {"addresses": ["127.0.1.1"]},
         "udp": 29500}  # fmt: skip
FITS = Finding(host="node1", subject="memory plan", level=Level.OK, found="x", expected="y")


@pytest.fixture
def env(make_manifest: Callable[..., Any], tmp_path: Path) -> EnvSpec:
    """An environment for CPU hosts."""
    manifest = make_manifest()
    lock = "sympy==1.14.0 --hash=sha256:bb\n"
    return make_env_spec(lock, manifest, tmp_path / manifest.wheel)


def probed(host: str, env: EnvSpec) -> dict[str, Any]:
    """What a healthy host with that environment answers."""
    number = host[-1]
    way = {"source": f"10.0.0.{number}", "interface": "eth0"}
    environment = {"lock": env.name, "torch": env.manifest.torch}
    values = {
        "hostname": host,
        "environment": environment,
        "environments": [env.name],
        "environment.now": {"torch": env.manifest.torch},
        "shm": {"total": 8 << 30, "free": 8 << 30},
        "home.place": f"a home of {host}",
        "boot_id": f"boot-{host}",
        "machine_id": f"machine-{host}",
        "routes": {ip: {"address": ip, **way} for ip in ("10.0.0.1", "10.0.0.2")},
    }
    answer: dict[str, Any] = json.loads(PROBE.read_text())
    answer |= {name: {"value": value} for name, value in values.items()}
    del answer["clock"]  # recorded, so that it is no clock of now
    return answer


@pytest.fixture
def fleet(near: Any, env: EnvSpec) -> Any:
    """Two healthy hosts, as the probe tells of them."""
    found = near(*NODES)
    for host in NODES:
        found[host].answers["probe"] = probed(host, env)
    return found


class Asked:
    """In place of preflight's own questions: what was wanted, and what healthy hosts answer."""

    def __init__(self) -> None:
        self.wanted: list[Wanted] = []
        self.answers = {host: deepcopy(ANSWER) for host in NODES}

    def __call__(self, fleet: Any, wanted: Wanted, rows: str, say: Any) -> Ready:
        self.wanted.append(wanted)
        if set(wanted.mesh.hosts) != set(NODES):  # nor is the network tested then
            return Ready(hosts=self.answers)
        dials = {
            host: {
                "master": {"addresses": ["10.0.0.1"], "reached": 0.002},
                "peers": {other: deepcopy(PEER) for other in NODES if other != host},
                "heard": [other for other in NODES if other != host],
            }
            for host in NODES
        }
        hellos = {h: {**HELLO, "network": n, "hostname": h} for n, h in enumerate(NODES)}
        rates = {(a, b): 1.1e9 for a in NODES for b in NODES if a != b}
        return Ready(hosts=self.answers, mesh=Mesh(hellos=hellos, dials=dials, rates=rates))


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Asked:
    found = Asked()
    monkeypatch.setattr(readiness, "gather_ready", found)
    return found


def settings(tmp_path: Path, **flags: Any) -> Settings:
    (tmp_path / "hosts.txt").write_text("node1 slots=2\nnode2 slots=1\n")
    return make_settings({"torch": "2.13.0"}, flags, tmp_path)


def failing(report: Report) -> set[tuple[str, str]]:
    return {(finding.host, finding.subject) for finding in report.failing}


def test_hosts_that_are_as_they_should_be_may_start(
    fleet: Any, env: EnvSpec, asked: Asked, tmp_path: Path
) -> None:
    out = Answer(json=True)
    ready = gather_readiness(out, settings(tmp_path), fleet, env, {})
    assert failing(ready.report) == set()
    subjects = {finding.subject for finding in ready.report.findings}
    assert "environment" in subjects
    assert "glibc" not in subjects  # of the wheel, only what does not fit is told before each run
    assert [(h.name, h.nproc_per_node, h.address) for h in ready.hosts] == [
        ("node1", 2, "10.0.0.1"),
        ("node2", 1, "10.0.0.2"),
    ]
    assert list(ready.facts) == list(NODES)
    assert (ready.wanted.lock, ready.wanted.master_addr) == (env.name, "10.0.0.1")
    assert out.values == {"memory": None, "findings": []}  # a report is the caller's to show
    assert (out.exit, [fleet[host].did for host in NODES]) == (0, [["probe"]] * 2)


def test_hosts_that_are_not_reached_end_it_before_any_is_asked(
    fleet: Any, env: EnvSpec, asked: Asked, tmp_path: Path
) -> None:
    fleet["node2"].lost.append("")
    out = Answer(json=True)
    with pytest.raises(Stop):
        gather_readiness(out, settings(tmp_path), fleet, env, {})
    assert (out.exit, fleet["node1"].did, asked.wanted) == (errors.UNREACHABLE, [], [])
    assert [finding["host"] for finding in out.values["findings"]] == ["node2"]


def test_a_host_that_is_lost_while_it_is_probed_ends_it_before_preflight(
    fleet: Any, env: EnvSpec, asked: Asked, tmp_path: Path
) -> None:
    fleet["node2"].lost.append("probe")
    out = Answer(json=True)
    with pytest.raises(Stop):
        gather_readiness(out, settings(tmp_path), fleet, env, {})
    assert (out.exit, asked.wanted) == (errors.UNREACHABLE, [])


def test_a_model_of_this_machine_is_looked_for_where_push_puts_it(
    fleet: Any, env: EnvSpec, asked: Asked, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "config.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    s = settings(tmp_path, model="./m")
    with pytest.raises(Stop):
        gather_readiness(Answer(json=True), s, fleet, env, {})
    assert asked.wanted == []
    path = read_what(Path("./m"), print).path
    for host in NODES:
        there = fleet[host].home / path.removeprefix("~/")
        there.mkdir(parents=True)
        (there.parent / "manifest").touch()
    gather_readiness(Answer(json=True), s, fleet, env, {})
    assert [wanted.model for wanted in asked.wanted] == [path]


def other_glibc(fleet: Any, asked: Asked) -> None:
    fleet["node2"].answers["probe"]["glibc"] = {"value": "2.17"}


def another_environment(fleet: Any, asked: Asked) -> None:
    fleet["node2"].answers["probe"]["environment"] = {"value": {"lock": "other"}}


def no_room(fleet: Any, asked: Asked) -> None:
    asked.answers["node2"]["folders"][0]["free"] = 0


def no_way(fleet: Any, asked: Asked) -> None:
    fleet["node2"].answers["probe"]["routes"]["value"].clear()


@pytest.mark.parametrize(
    ("spoil", "subject"),
    [
        (other_glibc, "glibc"),
        (another_environment, "environment"),
        (no_way, "interface"),
        (no_room, "output"),
    ],
)
def test_what_is_wrong_with_one_host_keeps_the_run_from_starting(
    fleet: Any,
    env: EnvSpec,
    asked: Asked,
    tmp_path: Path,
    spoil: Callable[[Any, Asked], None],
    subject: str,
) -> None:
    spoil(fleet, asked)
    report = gather_readiness(Answer(json=True), settings(tmp_path), fleet, env, {}).report
    assert ("node2", subject) in failing(report)
    assert "node1" not in {host for host, _ in failing(report)}


def write_lock(path: Path, lock: Lock) -> None:
    hosts: Mapping[str, Mapping[str, Any]] = lock.hosts
    whole = {"schema": 1, "written": lock.written, "wheel": dict(lock.wheel), "hosts": hosts}
    path.write_text(json.dumps(whole))


def test_drift_from_the_lock_counts_unless_it_is_allowed(
    fleet: Any, env: EnvSpec, asked: Asked, tmp_path: Path
) -> None:
    facts = {host: parse_facts(host, probed(host, env)) for host in NODES}
    lock = make_lock(facts, env.manifest, "2026-11-22T09:00:00+00:00")
    kernel = {**lock.hosts["node1"], "kernel": "5.10.0"}
    write_lock(
        tmp_path / "zerofleet.lock.json", replace(lock, hosts={**lock.hosts, "node1": kernel})
    )
    ready = gather_readiness(Answer(json=True), settings(tmp_path), fleet, env, {})
    assert failing(ready.report) == {("node1", "kernel")}
    s = settings(tmp_path, allow_drift="kernel")
    assert gather_readiness(Answer(json=True), s, fleet, env, {}).report.ok


def test_a_lock_that_is_asked_for_and_not_there_is_refused(
    fleet: Any, env: EnvSpec, asked: Asked, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"zerofleet\.lock\.json: found no such file"):
        gather_readiness(Answer(json=True), settings(tmp_path, locked=True), fleet, env, {})


@pytest.mark.parametrize("level", [Level.OK, Level.ERROR])
def test_a_run_that_does_not_fit_is_shown_all_stages(
    fleet: Any,
    env: EnvSpec,
    asked: Asked,
    tmp_path: Path,
    level: Level,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """And whatever was planned is what the run then wants."""
    told: list[bool] = []
    spec = MemorySpec(model=read_model("qwen3-8b"), method="full", gpus=2)
    memory = RunMemory(
        zero=3,
        offload="all",
        advice=advise(spec, Room(gpu=10**9, host=10**9)),
        report=Report(findings=(replace(FITS, level=level),)),
    )

    def plan(wanted: Wanted, facts: Any, answers: Ready, *, auto: bool) -> RunMemory:
        told.append(auto)
        return memory

    monkeypatch.setattr(readiness, "plan_run", plan)
    out = Answer(json=False)
    ready = gather_readiness(out, settings(tmp_path, zero="auto"), fleet, env, {})
    assert told == [True]
    assert (ready.wanted.zero, ready.wanted.offload) == (3, "all")
    assert (ready.memory, out.values["memory"]) == (memory, memory.as_json())
    assert ready.report.ok == (level is Level.OK)
    assert ("GB sent a step" in capsys.readouterr().out) == (level is Level.ERROR)
