"""The wheels that are here, of those that a lock asks for."""

from __future__ import annotations

import zipfile

import pytest

from provision.deploy.fetch import apply_fetch, download_argv
from provision.deploy.platform import Platform
from provision.deploy.wheelhouse import UV_LOCK, parse_pins, read_wheelhouse, static_tags
from provision.errors import ConfigError
from provision.settings import CHECKOUT

PLATFORM = Platform(machine="x86_64", glibc=(2, 31), python_tag="cp311")
LOCK = (
    "# a comment\n"
    "Type_A==1.0 \\\n    --hash=sha256:aa \\\n    --hash=sha256:bb\n    # via something\n"
    "b==2 ; sys_platform == 'win32' \\\n    --hash=sha256:cc\n"
    "c==3 ; python_full_version < '3.12' --hash=sha256:dd\n"
)


def keep(folder, sha256, wheel):
    (folder / sha256).mkdir(parents=True)
    with zipfile.ZipFile(folder / sha256 / wheel, "w") as archive:
        archive.writestr("a/__init__.py", "x = 1\n")
        archive.writestr("a/data.bin", b"0" * 100)


def test_pins_that_count_on_the_platform_with_all_their_hashes():
    first, second = parse_pins(LOCK, PLATFORM)
    assert (first.name, first.version, first.hashes) == ("type-a", "1.0", {"aa", "bb"})
    assert second.line == "c==3 --hash=sha256:dd\n"


def test_every_line_of_our_lock_is_understood():
    text = (CHECKOUT / "locks" / "train.lock").read_text(encoding="utf-8")
    pins = parse_pins(text, PLATFORM)
    assert {"transformers", "trl", "peft", "einops"} <= {pin.name for pin in pins}
    assert "colorama" not in {pin.name for pin in pins}
    assert all(pin.hashes and all(len(h) == 64 for h in pin.hashes) for pin in pins)


def test_of_several_files_that_are_here_the_best_that_fits_is_taken(tmp_path):
    keep(tmp_path, "aa", "type_a-1.0-cp311-cp311-manylinux_2_17_x86_64.whl")
    keep(tmp_path, "bb", "type_a-1.0-cp311-cp311-manylinux_2_28_x86_64.whl")
    house = read_wheelhouse(tmp_path, LOCK, PLATFORM)
    assert [package.sha256 for package in house.packages] == ["bb"]
    assert [pin.name for pin in house.missing] == ["c"]
    assert house.uv_missing
    older = Platform(machine="x86_64", glibc=(2, 17), python_tag="cp311")
    assert [p.sha256 for p in read_wheelhouse(tmp_path, LOCK, older).packages] == ["aa"]


def test_a_file_for_another_machine_does_not_count(tmp_path):
    keep(tmp_path, "aa", "type_a-1.0-cp311-cp311-manylinux_2_17_aarch64.whl")
    assert not read_wheelhouse(tmp_path, LOCK, PLATFORM).packages


def test_what_a_package_becomes_with_its_bytecode(tmp_path):
    keep(tmp_path, "aa", "type_a-1.0-py3-none-any.whl")
    (package,) = read_wheelhouse(tmp_path, LOCK, PLATFORM).packages
    assert package.read_unpacked() == (112, 3)


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_uv_is_pinned_for_each_machine(tmp_path, machine):
    platform = Platform(machine=machine, glibc=(2, 31), python_tag="cp311")
    (uv,) = parse_pins(UV_LOCK.read_text(encoding="utf-8"), platform)
    assert len(uv.hashes) == 2
    wheel = f"uv-{uv.version}-py3-none-musllinux_1_1_{machine}.whl"
    keep(tmp_path, min(uv.hashes), wheel)
    found = read_wheelhouse(tmp_path, "", platform)
    assert found.uv is not None
    assert found.uv.wheel == wheel
    assert [tag.platform for tag in static_tags(platform)] == [f"musllinux_1_1_{machine}"]


def test_pip_is_asked_for_another_python_and_system_than_this_one(tmp_path):
    argv = download_argv(tmp_path / "r.txt", tmp_path, "3.12", ("manylinux_2_17_aarch64",))
    for flags in (["--python-version", "3.12"], ["--platform", "manylinux_2_17_aarch64"]):
        at = argv.index(flags[0])
        assert argv[at : at + 2] == flags
    assert {"--require-hashes", "--no-deps", "--only-binary"} <= set(argv)


@pytest.fixture
def local_index(tmp_path, monkeypatch):
    """A folder of wheels in place of every index."""
    wheels = tmp_path / "wheels of ours"
    wheels.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels).replace(" ", "%20"))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_TARGET", str(tmp_path / "astray"))
    return wheels


def test_a_wheel_that_no_index_has_is_named(tmp_path, local_index):
    house = read_wheelhouse(tmp_path / "house", "c==3 --hash=sha256:dd\n", PLATFORM)
    said: list[str] = []
    with pytest.raises(ConfigError, match=r"packages for x86_64, glibc 2\.31.*c==3"):
        apply_fetch(tmp_path / "house", house, said.append)
    assert said[0] == "downloading c 3 for x86_64, glibc 2.31, Python 3.11"
    assert not (tmp_path / "house" / "staging").exists()


def test_what_a_crash_left_empty_or_cut_short_is_not_here(tmp_path):
    keep(tmp_path, "aa", "type_a-1.0-py3-none-any.whl")
    path = tmp_path / "aa" / "type_a-1.0-py3-none-any.whl"
    for content in (b"", path.read_bytes()[:-10]):
        path.write_bytes(content)
        assert read_wheelhouse(tmp_path, LOCK, PLATFORM).packages == ()
