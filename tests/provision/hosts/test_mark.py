"""Marks, read by real shells, and what follows from an equal one."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from dataclasses import replace

import pytest

from provision.hosts.mark import COVERED, changed, parse_mark, read_mark_argv
from provision.hosts.parity import compare

SMI = """\
#!/bin/sh
test "$1" = nvlink && exec echo "Link 0: 26.562 GB/s"
echo "0, NVIDIA H100, GPU-1, 580.65.06, 81559 MiB, 00000000:01:00.0, Disabled, Enabled, 5, 16"
"""


@pytest.fixture
def home(tmp_path):
    """A home on which an environment is in use, with programs of its own on PATH."""
    place = tmp_path / "the home"
    env = place / ".zerofleet" / "envs" / "3f9c"
    for name in ("torch/lib", "deepspeed/ops"):
        (env / "lib" / "python3.11" / "site-packages" / name).mkdir(parents=True)
    (env / "bin").mkdir()
    for name in ("complete.json", "pyvenv.cfg", "bin/python"):
        (env / name).write_text("")
    (env / "lib/python3.11/site-packages/torch/version.py").write_text("__version__ = '2.13.0'")
    (place / ".zerofleet" / "current").symlink_to("envs/3f9c")
    (place / "bin").mkdir()
    for name, text in {"python3.11": "#!/bin/sh\n", "nvidia-smi": SMI}.items():
        (place / "bin" / name).write_text(text)
        (place / "bin" / name).chmod(0o755)
    return place


def ask(home, shell="sh"):
    """What a host with this home and login shell says."""
    argv = [shutil.which(shell), "-c", shlex.join(read_mark_argv())]
    environ = {"HOME": str(home), "PATH": f"{home}/bin:/usr/bin:/bin"}
    done = subprocess.run(argv, env=environ, cwd="/", capture_output=True, text=True, check=False)
    return done.stdout


@pytest.mark.parametrize("shell", ["dash", "bash", "fish", "tcsh"])
def test_every_login_shell_hands_it_to_sh_as_it_is(home, shell):
    mark = parse_mark(ask(home, shell))
    assert mark
    assert mark == parse_mark("a motd\n" + ask(home))
    assert f"current {home}/.zerofleet/envs/3f9c\n" in mark
    assert "NVIDIA H100, GPU-1" in mark
    assert "Link 0" in mark
    assert f"\n{home}/bin/python3.11 " in mark


def retarget(home):
    shutil.copytree(home / ".zerofleet/envs/3f9c", home / ".zerofleet/envs/77aa", symlinks=True)
    (home / ".zerofleet/current").unlink()
    (home / ".zerofleet/current").symlink_to("envs/77aa")


def remove_package(home):
    shutil.rmtree(home / ".zerofleet/current/lib/python3.11/site-packages/deepspeed")


def prove_again(home):
    os.utime(home / ".zerofleet/current/complete.json", (1, 1))


def other_torch(home):
    path = home / ".zerofleet/current/lib/python3.11/site-packages/torch/version.py"
    path.write_text(path.read_text().replace("2.13.0", "2.13.1"))


def other_driver(home):
    (home / "bin/nvidia-smi").write_text(SMI.replace("580.65.06", "570.1"))


def lost_gpu(home):
    (home / "bin/nvidia-smi").write_text("#!/bin/sh\necho GPU is lost >&2\nexit 15\n")


def lost_link(home):
    (home / "bin/nvidia-smi").write_text(SMI.replace("26.562 GB/s", "<inactive>"))


def upgraded_python(home):
    (home / "bin/python3.11").write_text("#!/bin/sh\n# newer\n")


def another_python(home):
    shutil.copy(home / "bin/python3.11", home / "bin/python3.13")


@pytest.mark.parametrize(
    "change",
    [
        retarget,
        remove_package,
        prove_again,
        other_torch,
        other_driver,
        lost_gpu,
        lost_link,
        upgraded_python,
        another_python,
    ],
)
def test_whatever_changes_on_a_host_changes_its_mark(home, change):
    before = parse_mark(ask(home))
    assert before == parse_mark(ask(home))
    change(home)
    assert parse_mark(ask(home)) not in (before, None)


@pytest.mark.parametrize("gone", ["current", "current/complete.json"])
def test_without_an_environment_a_host_has_no_mark(home, gone):
    (home / ".zerofleet" / gone).unlink()
    assert parse_mark(ask(home)) is None


def test_a_broken_link_to_the_environment_is_no_mark(home):
    shutil.rmtree(home / ".zerofleet/envs")
    assert parse_mark(ask(home)) is None


def test_half_an_answer_is_no_mark(home):
    said = ask(home)
    lines = said.splitlines(keepends=True)
    assert parse_mark("") is None
    assert parse_mark("".join(lines[:-1])) is None
    assert parse_mark("".join(lines[1:])) is None
    assert parse_mark(said.replace("random/boot_id:", "random/boot_id: no such file")) is None


THEN = {"a": "1", "b": "2"}


@pytest.mark.parametrize(
    ("now", "hosts"),
    [
        ({"a": "1", "b": "2"}, ()),
        ({"a": "1", "b": "3"}, ("b",)),
        ({"a": "1", "b": None}, ("b",)),
        ({"a": "1", "b": ""}, ("b",)),
        ({"a": "1"}, ("b",)),
        ({"a": "1", "b": "2", "c": "3"}, ("c",)),
        ({}, ("a", "b")),
    ],
)
def test_a_host_is_what_it_was_only_with_its_very_mark(now, hosts):
    assert changed(THEN, now) == hosts


def test_a_mark_that_was_not_whole_then_equals_nothing_now():
    assert changed({"a": "", "b": "2"}, {"a": "", "b": "2"}) == ("a",)


def test_what_marks_cover_is_all_that_parity_judges_a_deploy_by(make_manifest, make_facts):
    """Where a new rule asks for more: it goes into COVERED, and what it depends on into mark.sh."""
    hosts = {name: make_facts(name) for name in ("node1", "node2")}
    kept = {
        name: replace(facts, facts={k: v for k, v in facts.facts.items() if k in COVERED})
        for name, facts in hosts.items()
    }
    whole = compare(make_manifest(), "2.13.0", hosts, deployed=False)
    assert whole.findings
    assert compare(make_manifest(), "2.13.0", kept, deployed=False) == whole
