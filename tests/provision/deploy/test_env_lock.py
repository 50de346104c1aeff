"""A lock of packages: what is asked for, what it is made for, how it differs from another."""

from __future__ import annotations

import pytest

from provision.deploy.env_lock import (
    Change,
    compare_locks,
    make_constraints,
    make_request,
    parse_asked,
    plan_lock_env,
    render,
    require_fits,
)
from provision.deploy.platform import Platform
from provision.errors import ConfigError
from provision.wheel.manifest import Distribution

HOSTS = Platform(machine="x86_64", glibc=(2, 31), python_tag="cp311")
PIN = "einops==0.8.2 \\\n    --hash=sha256:aa\n"


def test_what_is_asked_for_takes_the_place_of_the_projects_own_line():
    base = "# why\ntransformers==5.23.0\nPy-CPUinfo # for DeepSpeed\n\ntrl==1.16.0\n"
    asked = parse_asked("trl>=1.17\neinops # more\n\n", "--packages", {"torch"})
    assert make_request(base, asked) == "transformers==5.23.0\nPy-CPUinfo\ntrl>=1.17\neinops\n"


@pytest.mark.parametrize(
    "line", ["-r other.txt", "x >=> 1", "x @ https://host/x.whl", "--no-index"]
)
def test_what_is_no_package_by_name_and_version_is_refused(line):
    with pytest.raises(ConfigError, match=r"FILE: found .*expected a package by name and version"):
        parse_asked(f"einops\n{line}\n", "FILE", set())


def test_torch_is_not_asked_for_but_built_against():
    with pytest.raises(ConfigError, match=r"found Torch>=2, .*build the wheel that you want"):
        parse_asked("Torch>=2", "--packages", {"torch", "deepspeed"})


def test_what_torch_pulled_in_stays_as_it_was_unless_a_lock_pins_it(make_manifest):
    pulled = [("torch", "2.13.0+cu130"), ("triton", "3.7.0"), ("SymPy", "1.14.0")]
    requires = tuple(Distribution(name=n, version=v, sha256="ab" * 32) for n, v in pulled)
    manifest = make_manifest(requires=requires)
    assert make_constraints(manifest, "sympy==1.13.9 \\\n") == "triton==3.7.0\n"


def test_a_lock_says_what_it_is_for_and_is_of_no_other(make_manifest):
    text = render(PIN, ("einops",), HOSTS, "2.13.0+cpu")
    assert "# for x86_64, glibc 2.31, Python 3.11, torch 2.13.0+cpu\n" in text
    require_fits(text, make_manifest(), "my.lock")
    require_fits(text, make_manifest(torch="2.13.0+cu130"), "my.lock")  # the same release
    require_fits(PIN, make_manifest(python_tag="cp312"), "of any")
    for change in ({"python_tag": "cp312"}, {"torch": "2.14.0"}, {"platform": "linux_aarch64"}):
        with pytest.raises(ConfigError, match=r"my\.lock: found a lock for x86_64, .* lock-env"):
            require_fits(text, make_manifest(**change), "my.lock")


def test_changes_are_those_on_the_hosts_whatever_other_platforms_get():
    old = PIN + "colorama==0.4.6 ; sys_platform == 'win32' \\\n    --hash=sha256:bb\n"
    old += (
        "gone==1 --hash=sha256:cc\nnumpy==2.4.6 ; python_full_version < '3.12' --hash=sha256:dd\n"
    )
    new = PIN + "numpy==2.5.0 --hash=sha256:ee\nnew==3 --hash=sha256:ff\n"
    changes = compare_locks(old, new, HOSTS)
    assert [str(change) for change in changes] == [
        "remove gone 1",
        "add new 3",
        "numpy 2.4.6 -> 2.5.0",
    ]
    assert changes[0].as_json() == {"name": "gone", "old": "1", "new": None}


def test_a_lock_that_says_the_same_is_not_written_again():
    change = Change(name="new", old=None, new="3")
    assert plan_lock_env("my.lock", (), same=True).empty
    actions = [
        step.action for step in plan_lock_env("my.lock", (change,), same=False).phases[0].steps
    ]
    assert actions == ["add new 3", "write my.lock"]
