"""Which adapter merge takes, who merges it, and where the merged model goes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from provision import errors
from provision.commands.runs import find
from provision.commands.trainer_calls.merge import gather_merge_call
from provision.errors import ConfigError, UnreachableError
from provision.launch.module import HERE, WORK
from provision.launch.runs import KnownRun
from provision.settings import Settings, make_settings
from provision.show import Answer, Stop

OUT = Answer(json=True)
Known = Callable[..., KnownRun]


def settings(tmp_path: Path, **flags: Any) -> Settings:
    return make_settings({}, {"runs": str(tmp_path / "runs"), **flags}, tmp_path)


@pytest.fixture
def fleet(near: Any) -> Any:
    return near("node1", "node2")


@pytest.fixture
def known(fleet: Any, run_on: Callable[..., KnownRun], monkeypatch: pytest.MonkeyPatch) -> Known:
    """Makes both hosts know a run; ``silent``: those that don't answer."""

    def make(*silent: str) -> KnownRun:
        whole = run_on(fleet, node1="finished", node2="finished")
        told = {host: node for host, node in whole.nodes.items() if host not in silent}
        away = {
            host: UnreachableError(f"{host}: ssh", found="no answer", expected="one", remedy="look")
            for host in silent
        }
        runs = (replace(whole, nodes=told),) if told else ()
        monkeypatch.setattr(find, "gather_runs", lambda _: (runs, away))
        return whole

    return make


def test_an_adapter_of_this_machine_is_merged_here_into_a_folder_that_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    flags = {"result": "adapter", "python": "env/bin/python", "output": "merged"}
    call = gather_merge_call(OUT, settings(tmp_path, **flags), None)
    assert (call.host, call.python) == (HERE, str(tmp_path / "env/bin/python"))
    assert call.module == "trainer.merge"
    assert call.args == (str(tmp_path / "adapter"), f"{WORK}/result", "--json")
    assert (call.output, call.inputs) == (tmp_path / "merged", ())


def test_a_run_that_was_collected_here_is_merged_beside_it(tmp_path: Path) -> None:
    kept = tmp_path / "runs" / "r1" / "output"
    kept.mkdir(parents=True)
    s = settings(tmp_path, result="r1", python="/p")
    call = gather_merge_call(OUT, s, None)
    assert (call.args[0], call.output) == (str(kept), tmp_path / "runs" / "r1" / "merged")
    other = gather_merge_call(OUT, replace(s, output="/o", given=s.given | {"output"}), None)
    assert other.output == Path("/o")


def test_a_folder_of_that_name_is_meant_rather_than_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "r1" / "output").mkdir(parents=True)
    (tmp_path / "r1").mkdir()
    s = settings(tmp_path, result="r1", python="/p", output="merged")
    assert gather_merge_call(OUT, s, None).args[0] == str(tmp_path / "r1")


def test_a_folder_that_no_run_made_needs_a_place_for_the_result(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--output: found nothing, expected a new folder"):
        gather_merge_call(OUT, settings(tmp_path, result="/adapter", python="/p"), None)


def test_a_folder_on_the_hosts_is_merged_by_the_first_of_them(fleet: Any, tmp_path: Path) -> None:
    s = settings(tmp_path, result="~/adapter", output=str(tmp_path / "merged"))
    call = gather_merge_call(OUT, s, fleet)
    assert (call.host, call.python) == ("node1", "~/.zerofleet/current/bin/python")
    assert call.args[0] == "~/adapter"
    with pytest.raises(ConfigError, match="--output: found nothing"):
        gather_merge_call(OUT, settings(tmp_path, result="~/adapter"), fleet)


@pytest.mark.parametrize("name", ["last", "20261122"])
def test_a_run_is_merged_on_its_first_host_by_its_own_environment(
    fleet: Any, known: Known, tmp_path: Path, name: str
) -> None:
    run = known()
    call = gather_merge_call(OUT, settings(tmp_path, result=name), fleet)
    assert (call.host, call.python) == ("node1", "/env/bin/python")
    assert call.args[0] == run.outputs["node1"]
    assert call.output == tmp_path / "runs" / run.run / "merged"


def test_what_was_merged_before_is_not_written_over(
    fleet: Any, known: Known, tmp_path: Path
) -> None:
    merged = tmp_path / "runs" / known().run / "merged"
    merged.mkdir(parents=True)
    (merged / "model.safetensors").touch()
    with pytest.raises(ConfigError, match=r"--output: found .*/merged, which is not empty"):
        gather_merge_call(OUT, settings(tmp_path, result="last"), fleet)


def test_a_run_that_nobody_knows_is_refused(fleet: Any, known: Known, tmp_path: Path) -> None:
    known()
    with pytest.raises(ConfigError, match="run r9: found none of that name"):
        gather_merge_call(OUT, settings(tmp_path, result="r9"), fleet)


def test_a_run_whose_first_host_does_not_answer_is_refused(
    fleet: Any, known: Known, tmp_path: Path
) -> None:
    known("node1")  # node2 has no adapter: global rank 0's host has it
    with pytest.raises(ConfigError, match="found no answer about it from its first host"):
        gather_merge_call(Answer(json=True), settings(tmp_path, result="last"), fleet)


def test_where_no_host_answers_it_is_they_who_are_told(
    fleet: Any, known: Known, tmp_path: Path
) -> None:
    known("node1", "node2")
    out = Answer(json=True)
    with pytest.raises(Stop):
        gather_merge_call(out, settings(tmp_path, result="last"), fleet)
    assert out.exit == errors.UNREACHABLE
    assert [finding["host"] for finding in out.values["findings"]] == ["node1", "node2"]
