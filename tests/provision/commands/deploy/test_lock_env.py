"""What lock-env resolves for, and what it is asked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from provision.commands.deploy.lock_env import gather_platform, read_asked
from provision.errors import ConfigError
from provision.settings import make_settings
from provision.show import Answer


@pytest.mark.parametrize(("glibc", "taken"), [("2.34", (2, 34)), ("2.39", (2, 39))])
def test_a_glibc_that_is_named_asks_no_host(make_manifest, glibc, taken) -> None:
    s = make_settings({}, {"glibc": glibc, "hosts": "none.txt"}, Path("/"))
    found = gather_platform(Answer(json=True), s, make_manifest(glibc="2.34"))
    assert (found.glibc, found.python_tag) == (taken, "cp311")


@pytest.mark.parametrize("glibc", ["2.28", "3.1", "2", "2.34.1", "newest"])
def test_a_glibc_that_the_wheel_can_not_have_is_refused(make_manifest, glibc) -> None:
    s = make_settings({}, {"glibc": glibc}, Path("/"))
    with pytest.raises(ConfigError, match=r"--glibc: found .*, expected 2\.34 or newer"):
        gather_platform(Answer(json=True), s, make_manifest(glibc="2.34"))


def test_packages_and_a_file_of_them_are_asked_for_together(tmp_path: Path) -> None:
    (tmp_path / "more.txt").write_text("# mine\nbitsandbytes==0.48\n")
    s = make_settings({}, {"packages": "einops>=0.8", "requirements": "more.txt"}, tmp_path)
    assert read_asked(s, set()) == ("einops>=0.8", "bitsandbytes==0.48")
    with pytest.raises(ConfigError, match=r"--requirements more\.txt"):
        read_asked(s, {"bitsandbytes"})  # a wheel of it is here already


def test_a_file_of_packages_that_can_not_be_read_is_one_line(tmp_path: Path) -> None:
    s = make_settings({}, {"requirements": "none.txt"}, tmp_path)
    with pytest.raises(ConfigError, match=r"none\.txt: No such file"):
        read_asked(s, set())
    (tmp_path / "none.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="not UTF-8 text"):
        read_asked(s, set())
