from __future__ import annotations

import tarfile
from pathlib import Path

import pytest

from provision.build.source import apply_unpack, read_source
from provision.build.spec import RELEASES, parse_build_spec
from provision.errors import BuildError, ConfigError


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    tree = tmp_path / "DeepSpeed"
    (tree / "op_builder").mkdir(parents=True)
    (tree / "csrc").mkdir()
    (tree / "setup.py").write_text("")
    (tree / "version.txt").write_text("0.20.0\n")
    (tree / "csrc" / "adam.cpp").write_text("int x;")
    (tree / "link").symlink_to("csrc")
    return tree


def read(path: Path):
    return read_source(parse_build_spec(accelerator="cpu", source=str(path)))


def test_release_is_pinned() -> None:
    source = read_source(parse_build_spec(accelerator="cpu"))
    assert source.pinned
    assert source.name == "deepspeed-0.19.8.tar.gz"
    assert source.sha256 == RELEASES["0.19.8"]


def test_tree(tree: Path) -> None:
    source = read(tree)
    assert (source.name, source.version, source.pinned) == ("DeepSpeed", "0.20.0", False)


def test_hash_sees_content_names_and_links_but_not_what_builds_leave(tree: Path) -> None:
    first = read(tree).sha256
    for left in (".git/HEAD", "build/x.o", "csrc/x.so", "deepspeed.egg-info/PKG-INFO"):
        (tree / left).parent.mkdir(exist_ok=True)
        (tree / left).write_text("x")
    assert read(tree).sha256 == first
    (tree / "csrc" / "adam.cpp").write_text("int y;")
    second = read(tree).sha256
    (tree / "csrc" / "adam.cpp").rename(tree / "csrc" / "adam2.cpp")
    third = read(tree).sha256
    (tree / "link").unlink()
    (tree / "link").symlink_to("op_builder")
    assert len({first, second, third, read(tree).sha256}) == 4


def test_archive_and_unpack(tree: Path, tmp_path: Path) -> None:
    archive = tmp_path / "DeepSpeed-0.20.0.tar.gz"
    with tarfile.open(archive, "w:gz") as file:
        file.add(tree, arcname="DeepSpeed-0.20.0")
    assert read(archive).version == "0.20.0"
    for origin, target in ((archive, tmp_path / "a"), (tree, tmp_path / "b")):
        apply_unpack(origin, target)
        assert (target / "csrc" / "adam.cpp").read_text() == "int x;"
        assert (target / "link").readlink() == Path("csrc")
    assert not (tmp_path / "a.unpacked").exists()


@pytest.mark.parametrize(
    ("breakage", "words"),
    [
        (lambda tree: (tree / "setup.py").unlink(), "no setup.py"),
        (lambda tree: (tree / "version.txt").write_text("main"), "'main'"),
        (lambda tree: tree.rename(tree.with_name("moved")), "no such file"),
    ],
    ids=["no setup.py", "no version", "nothing there"],
)
def test_no_source(tree: Path, breakage, words: str) -> None:
    breakage(tree)
    with pytest.raises(ConfigError, match=words):
        read(tree)


def test_no_archive(tmp_path: Path) -> None:
    (tmp_path / "x.tar.gz").write_text("hello")
    with pytest.raises(ConfigError, match="no archive"):
        read(tmp_path / "x.tar.gz")


def test_unpack_on_pythons_without_tars_filters(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    origin = tmp_path / "a.tar.gz"
    with tarfile.open(origin, "w:gz") as archive:
        archive.add(tree, "DeepSpeed-1")
    monkeypatch.delattr(tarfile, "data_filter", raising=False)
    apply_unpack(origin, tmp_path / "a")
    assert (tmp_path / "a" / "link" / "adam.cpp").read_text() == "int x;"


@pytest.mark.parametrize("name", ["/etc/x", "top/../../x"])
def test_an_archive_that_leads_out_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    origin = tmp_path / "a.tar"
    with tarfile.open(origin, "w") as archive:
        archive.addfile(tarfile.TarInfo(name))
    monkeypatch.delattr(tarfile, "data_filter", raising=False)
    with pytest.raises(BuildError, match="leads out of the archive"):
        apply_unpack(origin, tmp_path / "a")
