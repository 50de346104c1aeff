"""Where a host's packages come from, and when nothing has to be looked up for that."""

from __future__ import annotations

from pathlib import Path

import pytest

from provision.commands.deploy.packages import read_house, read_spec, require_whole
from provision.deploy.platform import Platform
from provision.deploy.spec import make_env_spec
from provision.deploy.wheelhouse import Wheelhouse
from provision.errors import ConfigError
from provision.settings import make_settings

LOCK = "sympy==1.14.0 --hash=sha256:" + "01" * 32 + "\n"


def test_a_source_that_there_is_none_of_is_refused_with_those_there_are() -> None:
    s = make_settings({}, {"env_source": "conda"}, Path("/"))
    with pytest.raises(ConfigError, match="--env-source: found 'conda', expected wheelhouse"):
        read_spec(s)


def test_no_wheelhouse_is_read_where_hosts_download_or_lack_nothing(make_manifest, make_facts):
    spec = make_env_spec(LOCK, make_manifest(), Path("w.whl"), ())
    index = make_settings({}, {"env_source": "index"}, Path("/"))
    assert read_house(index, spec, {"node1": make_facts()}) is None
    assert read_house(make_settings({}, {}, Path("/")), spec, {}) is None


def test_what_went_missing_between_download_and_push_is_named() -> None:
    require_whole(None)
    platform = Platform(machine="x86_64", glibc=(2, 34), python_tag="cp311")
    fields = {"platform": platform, "packages": (), "missing": ("torch 2.13.0",)}
    with pytest.raises(ConfigError, match=r"found none of torch 2\.13\.0 that fits"):
        require_whole(Wheelhouse(**fields, uv=None))
