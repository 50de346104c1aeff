"""A push, and a run that uses what was pushed: what hosts lack, what is sent, what is said."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from provision import errors
from provision.commands.push import push
from provision.commands.push.push import (
    apply_pushed,
    gather_all_looks,
    gather_local,
    push_way,
    read_what,
    show_pushed,
)
from provision.errors import HostError
from provision.push.apply import Moved
from provision.push.plan import plan_push
from provision.push.pushed import Pushed
from provision.settings import Settings, make_settings
from provision.show import Answer, Stop
from provision.steps import Phase, Plan, Put, Step

FULL = HostError("node2: disk", found="1 B free", expected="9 B", remedy="make room")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a model in it; this user's cache is elsewhere."""
    here = tmp_path / "here"
    (here / "m").mkdir(parents=True)
    (here / "m" / "config.json").write_text("{}")
    (here / "a.jsonl").write_text("a\n")
    (here / "b.jsonl").write_text("b\n")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(here)
    return here


def settings(**flags: Any) -> Settings:
    return make_settings({}, flags, Path.cwd())


def what_of(path: str) -> Pushed:
    return read_what(Path(path), print)


def file_on(host: Any, path: str) -> Pushed:
    """A file that the host has already."""
    what = what_of(path)
    there = host.home / what.path.removeprefix("~/")
    there.parent.mkdir(parents=True)
    shutil.copyfile(path, there)
    return what


def step_of(host: str) -> Step:
    return Step(host=host, do=Put(target="x", sha256="a" * 64, size=1, content=b"x"), why="x")


PHASE = Phase(name="push", steps=(step_of("node2"),))


class Pushes:
    """In place of apply_push: what it was asked for, and what comes of it."""

    def __init__(self, moved: Moved) -> None:
        self.moved, self.phase = moved, PHASE
        self.asked: dict[str, Any] = {}

    def __call__(self, fleet: Any, phase: Phase, say: Any, **asked: Any) -> Moved:
        self.phase, self.asked = phase, asked
        return self.moved


@pytest.fixture
def pushes(monkeypatch: pytest.MonkeyPatch) -> Pushes:
    found = Pushes(Moved(sent=1234))
    monkeypatch.setattr(push, "apply_push", found)
    return found


def test_digests_are_kept_beside_the_build_cache(tmp_path: Path) -> None:
    what_of("./m")
    assert len(list((tmp_path / "cache" / "zerofleet" / "digests").glob("*.json"))) == 1


def test_a_folder_comes_to_the_hosts_that_lack_it_and_once(
    near: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    fleet, out, what = near("node1", "node2"), Answer(json=False), what_of("./m")
    looks = gather_all_looks(out, fleet, what)
    moved = apply_pushed(out, settings(), fleet, plan_push(what, looks))
    show_pushed(out, what, looks, moved)
    there = f".zerofleet/store/{what.digest}/m"
    for host in ("node1", "node2"):
        home = fleet[host].home
        assert (home / there / "config.json").read_text() == "{}"
        assert out.values["hosts"][host]["path"] == str(home / there)
        assert out.values["hosts"][host]["changed"]
        assert out.values["hosts"][host]["bytes_fetched"] == moved.fetched[host] > 2
    shown = capsys.readouterr()
    assert shown.out == f"~/{there}\n"
    assert f"{moved.sent} bytes left this machine, {sum(moved.fetched.values())} came" in shown.err
    again = gather_all_looks(out, fleet, what)
    assert plan_push(what, again).empty
    show_pushed(out, what, again, apply_pushed(out, settings(), fleet, plan_push(what, again)))
    assert [(h["changed"], h["bytes_fetched"]) for h in out.values["hosts"].values()] == [
        (False, 0),
        (False, 0),
    ]


def test_a_host_that_can_t_be_asked_ends_it_with_every_such_host(near: Any) -> None:
    fleet, out = near("node1", "node2", "node3"), Answer(json=True)
    for host in ("node1", "node3"):
        fleet[host].lost.append("place")
    with pytest.raises(Stop):
        gather_all_looks(out, fleet, what_of("a.jsonl"))
    assert out.exit == errors.UNREACHABLE
    assert [finding["host"] for finding in out.values["findings"]] == ["node1", "node3"]


def test_a_host_that_is_lost_in_the_middle_ends_it_before_anything_is_arranged(near: Any) -> None:
    fleet, out, what = near("node1", "node2"), Answer(json=True), what_of("./m")
    plan = plan_push(what, gather_all_looks(out, fleet, what))
    assert [phase.name for phase in plan.phases] == ["push", "arrange"]
    fleet["node2"].lost.append("relay")
    with pytest.raises(Stop):
        apply_pushed(out, settings(), fleet, plan)
    assert out.exit == errors.UNREACHABLE
    assert [finding["host"] for finding in out.values["findings"]] == ["node2"]
    assert fleet["node1"].did == ["place", "relay"]


def test_what_is_asked_of_a_push_is_what_its_flags_say(near: Any, pushes: Pushes) -> None:
    fleet, out = near("node1", "node2", "node3"), Answer(json=True)
    s = settings(limit="2MB/s", check=True)
    moved = apply_pushed(out, s, fleet, Plan(title="t", phases=(PHASE,)))
    assert moved == pushes.moved
    assert pushes.phase == PHASE
    # Those that lack nothing may pass it on.
    assert pushes.asked == {"rate": 2e6, "holders": ["node1", "node3"], "check": True}


def test_a_deploys_push_is_passed_on_by_one_host_of_each_home(
    near: Any, pushes: Pushes, capsys: pytest.CaptureFixture[str]
) -> None:
    pushes.moved = Moved(sent=1234, errors={"node2": FULL})
    said: list[str] = []
    apply = push_way(settings(partial=True), near("node1", "node2"), ["node1", "node2"])
    assert apply(PHASE, said.append) == {"node2": FULL}  # whoever deploys decides what of it
    assert pushes.asked == {"rate": 0.0, "holders": ["node1"], "partial": True}
    assert said == ["1,234 bytes left this machine"]


def test_a_host_that_had_all_but_the_folder_was_changed_though_nothing_came() -> None:
    out, what = Answer(json=True), what_of("./m")
    look = {"path": "/h/m", "there": False, "held": [put.sha256 for put in what.puts]}
    show_pushed(out, what, {"node1": look, "node2": {**look, "there": True}}, Moved())
    hosts = out.values.pop("hosts")
    assert [hosts[host]["changed"] for host in ("node1", "node2")] == [True, False]
    assert out.values == {"path": what.path, "digest": what.digest, "bytes": 2, "bytes_sent": 0}


def test_what_was_rotten_on_a_host_counts_as_a_change() -> None:
    out, what = Answer(json=True), what_of("./m")
    looks = {host: {"path": "/h/m", "there": True, "held": []} for host in ("node1", "node2")}
    show_pushed(out, what, looks, Moved(fetched={"node1": 0, "node2": 2}))
    assert [host["changed"] for host in out.values["hosts"].values()] == [False, True]


def test_a_run_takes_what_was_pushed_and_leaves_what_lies_on_hosts(near: Any) -> None:
    fleet, out = near("node1"), Answer(json=True)
    a = file_on(fleet["node1"], "a.jsonl")
    found = gather_local(out, settings(model="Qwen/Qwen3-8B", data="./a.jsonl,~/b.jsonl"), fleet)
    assert (found.model, found.data) == ("Qwen/Qwen3-8B", f"{a.path},~/b.jsonl")
    assert out.exit == 0


def test_a_space_behind_a_comma_is_no_part_of_a_local_path(near: Any) -> None:
    """As everywhere else where --data is read."""
    fleet, out = near("node1"), Answer(json=True)
    a = file_on(fleet["node1"], "a.jsonl")
    found = gather_local(out, settings(data="~/b.jsonl, ./a.jsonl"), fleet)
    assert found.data == f"~/b.jsonl,{a.path}"


def test_a_run_without_paths_of_this_machine_asks_no_host(near: Any) -> None:
    fleet = near("node1")
    s = settings(model="/m", data="/d")
    assert gather_local(Answer(json=True), s, fleet) == s
    bare = gather_local(Answer(json=True), settings(), fleet)
    assert (bare.model, bare.data) == (None, None)
    assert fleet["node1"].did == []


def test_a_comma_in_a_model_s_name_is_part_of_it(folder: Path, near: Any) -> None:
    (folder / "m").rename(folder / "m,n")
    fleet, out = near("node1"), Answer(json=True)
    with pytest.raises(Stop):
        gather_local(out, settings(model="./m,n"), fleet)
    assert out.values["findings"][0]["remedy"] == "invoke push ./m,n"


def test_all_that_hosts_lack_of_a_run_is_told_at_once(near: Any) -> None:
    fleet, out = near("node1"), Answer(json=True)
    with pytest.raises(Stop):
        gather_local(out, settings(model="./m", data="./a.jsonl,./b.jsonl"), fleet)
    assert out.exit == errors.FINDINGS
    told = [(f["host"], f["subject"], f["remedy"]) for f in out.values["findings"]]
    assert told == [
        ("node1", flag, f"invoke push {path}")
        for flag, path in (("model", "./m"), ("data", "./a.jsonl"), ("data", "./b.jsonl"))
    ]
