"""The resolver's command and settings, and what it says when there is no such set."""

from __future__ import annotations

import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from provision.deploy.platform import Platform
from provision.deploy.resolve import (
    Given,
    compile_argv,
    in_words,
    parse_pip_settings,
    read_given,
    uv_environ,
)
from provision.errors import ConfigError

HOSTS = Platform(machine="x86_64", glibc=(2, 29), python_tag="cp310")
GIVEN = [Given(name="torch", version="2.13.0", metadata=b"")]
LISTED = """\
:env:.find-links='/mnt/wheels'
download.extra-index-url='https://a/x  https://b/x'
global.cert='/etc/ca.pem'
global.extra-index-url='https://old/x'
global.find-links='/old'
global.index-url='https://me:p%40ss@mirror/x'
global.trusted-host='\\nmirror\\nother'
install.find-links='/never'
"""


def test_uv_goes_by_what_pip_is_configured_to():
    environ = uv_environ(parse_pip_settings(LISTED), {"HOME": "/h", "UV_INDEX": "x", "CONDA_X": ""})
    assert environ == {
        "HOME": "/h",
        "UV_INDEX_STRATEGY": "unsafe-best-match",
        "UV_DEFAULT_INDEX": "https://me:p%40ss@mirror/x",
        "UV_INDEX": "https://a/x https://b/x",
        "UV_FIND_LINKS": "/mnt/wheels",
        "UV_INSECURE_HOST": "mirror other",
        "SSL_CERT_FILE": "/etc/ca.pem",
    }


def test_a_proxy_is_one_for_every_scheme():
    environ = uv_environ({"proxy": "http://p:3128"}, {"HTTPS_PROXY": "http://other"})
    assert {environ[n] for n in ("ALL_PROXY", "HTTP_PROXY", "HTTPS_PROXY")} == {"http://p:3128"}


def test_resolved_for_the_hosts_and_not_for_this_machine():
    argv = compile_argv(Path("/x/uv"), HOSTS, GIVEN, upgrade=False)
    assert argv[argv.index("--python-version") + 1] == "3.10"
    assert argv[argv.index("--python-platform") + 1] == "x86_64-manylinux_2_28"  # uv knows no 2.29
    assert argv[argv.index("--no-emit-package") + 1] == "torch"
    assert "--upgrade" not in argv
    assert compile_argv(Path("uv"), HOSTS, GIVEN, upgrade=True)[-1] == "--upgrade"


@pytest.mark.parametrize("change", [{"glibc": (2, 12)}, {"machine": "ppc64le"}])
def test_a_platform_that_nothing_is_known_of_is_refused(change):
    with pytest.raises(ConfigError, match="platform to lock for"):
        compile_argv(Path("uv"), replace(HOSTS, **change), GIVEN, upgrade=False)


def test_what_comes_as_a_wheel_brings_its_requirements(make_manifest, tmp_path):
    manifest = make_manifest()
    with zipfile.ZipFile(tmp_path / manifest.wheel, "w") as archive:
        archive.writestr("deepspeed-0.19.8.dist-info/METADATA", "Requires-Dist: hjson\n")
    torch, deepspeed = read_given(manifest, tmp_path, ())
    assert (torch.name, torch.version) == ("torch", "2.13.0+cpu")
    assert b"Requires-Dist" not in torch.metadata
    assert (deepspeed.version, deepspeed.metadata) == (
        manifest.deepspeed,
        b"Requires-Dist: hjson\n",
    )


def test_the_resolvers_words_stay_and_its_frame_goes():
    said = (
        "error: No solution found when resolving dependencies\n"
        "  cause: Because only torch @ file:///tmp/zerofleet-lock-x/torch-2.13.0%2Bcpu-py3-none-any.whl\n"
        "      is available and you require torch>=3, we can conclude that … .\n"
        "hint: not ours\n"
    )
    assert in_words(said) == (
        "No solution found when resolving dependencies: Because only torch is available and you "
        "require torch>=3, we can conclude that … "
    )
    assert in_words("") == "no word of uv"
