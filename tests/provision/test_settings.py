"""Settings: flags over invoke.yaml over defaults, and nothing unknown."""

from __future__ import annotations

from pathlib import Path

import pytest

from provision.allowed import require_block
from provision.errors import ConfigError
from provision.settings import DEFAULTS, make_settings, read_settings

HERE = Path("/home/me/project")


def test_defaults_start_from_the_current_folder():
    settings = make_settings({}, {}, HERE)
    assert settings.hosts == HERE / "hosts.txt"
    assert settings.runs == HERE / "runs"
    assert settings.accelerator is None
    assert settings.set == {}


def test_a_flag_wins_over_the_file_and_the_file_over_the_default():
    config = {"hosts": "rack1.txt", "zero": 3, "set": {"max_steps": 10, "seed": 1}}
    flags = {"zero": "1", "hosts": None, "set": ["max-steps=20"]}
    settings = make_settings(config, flags, HERE)
    assert settings.hosts == HERE / "rack1.txt"
    assert settings.zero == 1
    assert settings.set == {"max_steps": "20", "seed": 1}
    assert settings.given == {"zero", "set"}


def test_the_deep_test_is_asked_for():
    assert make_settings({}, {}, HERE).deep is False
    assert make_settings({}, {"deep": True}, HERE).deep is True


def test_what_is_pushed_is_of_this_machine():
    assert make_settings({}, {"what": "models/m"}, HERE).what == HERE / "models/m"
    assert make_settings({"limit": "50MB/s"}, {}, HERE).limit == "50MB/s"


def test_absolute_paths_stay():
    assert make_settings({"runs": "/data/runs"}, {}, HERE).runs == Path("/data/runs")


@pytest.mark.parametrize(
    ("config", "flags", "message"),
    [
        ({"acelerator": "cpu"}, {}, r"unknown setting 'acelerator'.*did you mean 'accelerator'"),
        ({}, {"zero": "two"}, r"--zero: found 'two', expected a number"),
        ({"master_port": "x"}, {}, r"--master-port: found 'x'"),
        ({"master_port": 99999}, {}, r"--master-port: found 99999, expected a number from 1 to"),
        ({}, {"master_port": "0"}, r"--master-port: found '0'"),
        ({}, {"lost_after": "2"}, r"--lost-after: found '2', expected a number, 3 or more"),
        ({"grace": 0}, {}, r"--grace: found 0, expected a number, 1 or more"),
        ({}, {"grace_after_failure": "0"}, r"--grace-after-failure: found '0', expected"),
        ({}, {"workers": 0}, r"--workers: found 0, expected a number, 1 or more"),
        ({}, {"set": ["max_steps"]}, r"--set: found 'max_steps', expected key=value"),
        ({"accept_new": "no"}, {}, r"invoke.yaml, accept_new: found 'no', expected true or false"),
        ({"hosts": ["a", "b"]}, {}, r"invoke.yaml, hosts: found \['a', 'b'\], expected one value"),
        ({}, {"hosts": "~nobody-here/h"}, r"--hosts: found '~nobody-here/h', expected .* home"),
    ],
)
def test_what_cannot_be_honoured_is_refused(config, flags, message):
    with pytest.raises(ConfigError, match=message):
        make_settings(config, flags, HERE)


def test_how_long_a_host_may_take_is_a_number():
    assert make_settings({"answer_timeout": 90}, {}, HERE).answer_timeout == 90
    assert make_settings({}, {"answer_timeout": "5"}, HERE).answer_timeout == 5
    with pytest.raises(ConfigError, match="--answer-timeout: found 'soon'"):
        make_settings({}, {"answer_timeout": "soon"}, HERE)


def test_one_fact_and_more_columns_are_asked_for():
    settings = make_settings({}, {"fact": "gpu.driver", "wide": True}, HERE)
    assert (settings.fact, settings.wide) == ("gpu.driver", True)
    assert make_settings({}, {}, HERE).wide is False


def test_every_default_is_accepted_as_configuration():
    make_settings(DEFAULTS, {}, HERE)


def test_the_drift_lock_lies_beside_the_hosts_file_unless_named():
    assert make_settings({}, {"hosts": "a/rack1.txt"}, HERE).lock_file == (
        HERE / "a" / "zerofleet.lock.json"
    )
    named = make_settings({"lock_file": "locks/rack1.json"}, {}, HERE)
    assert named.lock_file == HERE / "locks" / "rack1.json"
    assert named.locked is False


def test_gpus_may_be_a_number_or_a_list_in_the_file():
    assert make_settings({"arch": 8.0}, {}, Path("/x")).arch == "8.0"
    assert make_settings({"arch": [8.0, "9.0+PTX"]}, {}, Path("/x")).arch == "8.0,9.0+PTX"
    assert make_settings({}, {"arch": "A100"}, Path("/x")).arch == "A100"


def test_what_may_drift_is_a_list_in_the_file_and_a_text_as_a_flag():
    assert make_settings({"allow_drift": ["kernel", "os"]}, {}, HERE).allow_drift == "kernel,os"
    assert make_settings({}, {"allow_drift": "kernel"}, HERE).allow_drift == "kernel"


def test_zero_auto_starts_from_a_stage_that_the_offload_can_have():
    for offload, stage in (("none", 2), ("optimizer", 2), ("all", 3)):
        made = make_settings({}, {"zero": "auto", "offload": offload}, HERE)
        assert (made.zero, made.zero_auto) == (stage, True)
    assert make_settings({}, {"zero": "3"}, HERE).zero_auto is False
    assert make_settings({"zero": "auto"}, {}, HERE).zero_auto is True


@pytest.mark.parametrize("flag", ["rank", "tail"])
def test_a_count_is_a_number_or_not_given(flag: str) -> None:
    assert getattr(make_settings({}, {flag: None}, Path("/")), flag) is None
    assert getattr(make_settings({}, {flag: "0"}, Path("/")), flag) == 0
    with pytest.raises(ConfigError, match=f"--{flag}: found 'x', expected a number"):
        make_settings({}, {flag: "x"}, Path("/"))


@pytest.mark.parametrize("flag", ["rank", "tail", "keep_last", "wait"])
def test_a_count_is_not_below_none(flag: str) -> None:
    option = f"--{flag.replace('_', '-')}"
    with pytest.raises(ConfigError, match=f"{option}: found '-1', expected a number, 0 or more"):
        make_settings({}, {flag: "-1"}, HERE)


def test_what_no_deploy_could_honour_is_refused_before_any_host_is_asked() -> None:
    for limit in ("0", "-5MB/s", "fast"):
        with pytest.raises(ConfigError, match=f"--limit: found '{limit}'"):
            make_settings({}, {"limit": limit}, HERE)
    with pytest.raises(ConfigError, match="--limit: found '0'"):
        make_settings({"limit": 0}, {}, HERE)
    assert make_settings({"limit": 50_000_000}, {}, HERE).limit == "50000000"
    with pytest.raises(ConfigError, match="--env-python: found --env-source wheelhouse beside it"):
        make_settings({}, {"env_python": "~/x"}, HERE)
    make_settings({"env_source": "existing"}, {"env_python": "~/x"}, HERE)
    make_settings({"env_python": "~/x"}, {}, HERE)  # there for when it is of use


def test_packages_are_words_or_a_list_and_a_glibc_is_no_number():
    assert make_settings({"packages": ["a>=1,<2", "b"], "glibc": 2.28}, {}, HERE).packages == (
        "a>=1,<2 b"
    )
    assert make_settings({"glibc": 2.28}, {}, HERE).glibc == "2.28"
    assert make_settings({"env_lock": "my.lock"}, {}, HERE).env_lock == HERE / "my.lock"


def test_a_recipe_of_ours_goes_by_its_bare_name() -> None:
    ours = make_settings({}, {"recipe": "orpo"}, HERE).recipe
    assert ours.parts[-2:] == ("recipes", "orpo.yaml")
    assert ours.is_file()
    assert make_settings({}, {"recipe": "./orpo"}, HERE).recipe == HERE / "orpo"
    assert make_settings({}, {"recipe": "my.yaml"}, HERE).recipe == HERE / "my.yaml"


def test_a_folder_that_is_gone_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with pytest.raises(ConfigError, match="the current folder: found No such file or directory"):
        read_settings({})


@pytest.mark.parametrize("name", ["model", "zerofleeet", "Zerofleet"])
def test_what_stands_beside_our_block_is_not_left_out_silently(name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name}' at the left margin, expected zerofleet: there"):
        require_block(["zerofleet", "run", "tasks", "another", name])


def test_invokes_own_blocks_and_those_of_others_may_stay() -> None:
    require_block(["zerofleet", "run", "runners", "sudo", "tasks", "timeouts", "another"])
