from __future__ import annotations

import os
from pathlib import Path

import pytest

from provision.build.cache import Layout
from provision.build.tree import (
    apply_finished,
    apply_room,
    apply_sync,
    apply_tidy,
    apply_tree,
    objects_key,
)

FACTS = {
    "compiler": ["g++ 12.2.0", "wrapper"],
    "cpu": "x86-64-v3",
    "isa_checked": True,
    "ops": ["cpu_adam"],
    "source": "ab",
}


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(root=tmp_path)


def write(folder: Path, files: dict[str, str], *, mtime: float | None = None) -> Path:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        if mtime is not None:
            os.utime(path, (mtime, mtime))
    return folder


def files(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): path.read_text()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({"ops": ["cpu_adam", "cpu_lion"]}, True),
        ({"source": "cd"}, True),
        ({"cpu": "x86-64-v4"}, False),
        ({"compiler": ["g++ 13.1.0", "wrapper"]}, False),
        ({"compiler": ["g++ 12.2.0", "another wrapper"]}, False),
        ({"archs": ["8.0"]}, False),
    ],
)
def test_objects_key(change, same: bool) -> None:
    keys = {objects_key(facts, Path("/e")) for facts in (FACTS, {**FACTS, **change})}
    assert (len(keys) == 1) is same
    assert objects_key(FACTS, Path("/e")) != objects_key(FACTS, Path("/f"))


def test_objects_are_kept_from_a_finished_build_of_the_same_key_only(layout: Layout) -> None:
    assert not apply_room(layout, "one")
    write(layout.work, {"source/build/temp.x/a.o": "an object", "dist/x.whl": "", "bin/g++": ""})
    apply_finished(layout, "one")
    assert apply_room(layout, "one")
    assert files(layout.work) == {"source/build/temp.x/a.o": "an object"}
    # That build is killed here: nobody said that it was finished.
    assert not apply_room(layout, "one")
    assert files(layout.work) == {}
    write(layout.work, {"source/build/temp.x/a.o": "an object"})
    apply_finished(layout, "one")
    assert not apply_room(layout, "two")
    assert files(layout.work) == {}


def test_tidy_leaves_the_objects_and_their_mark(layout: Layout) -> None:
    apply_room(layout, "one")
    write(layout.work, {"source/a.cpp": "", "fresh/bin/python": "", "source.txt": ""})
    apply_finished(layout, "one")
    apply_tidy(layout)
    assert set(files(layout.work)) == {"source/a.cpp", "objects.json"}
    assert apply_room(layout, "one")


def test_a_damaged_mark_is_no_mark(layout: Layout) -> None:
    apply_room(layout, "one")
    (layout.work / "objects.json").write_text("{")
    assert not apply_room(layout, "one")


def test_only_what_changed_gets_a_new_time(tmp_path: Path) -> None:
    old = {"csrc/a.cpp": "a", "csrc/b.cpp": "b", "csrc/gone.h": "", "op_builder/x.py": "x"}
    tree = write(tmp_path / "tree", old, mtime=2000)
    left = {"build/temp.linux/csrc/a.o": "object", "build/temp.linux/.ninja_log": "log",
            "build/lib.linux/deepspeed/old_op.so": "of another op",
            "deepspeed/git_version_info_installed.py": "made by setup.py"}  # fmt: skip
    write(tree, left, mtime=3000)
    # As in an archive: the changed file is older than the object made of the one before.
    new = {"csrc/a.cpp": "a", "csrc/b.cpp": "changed", "op_builder/x.py": "x", "new/y.h": "y"}
    apply_sync(write(tmp_path / "fresh", new, mtime=1000), tree)
    assert files(tree) == {
        **new,
        "build/temp.linux/csrc/a.o": "object",
        "build/temp.linux/.ninja_log": "log",
    }
    assert (tree / "csrc/a.cpp").stat().st_mtime == 2000
    assert (tree / "csrc/b.cpp").stat().st_mtime > 3000
    assert (tree / "new/y.h").stat().st_mtime > 3000


def test_links_folders_and_files_in_one_anothers_place(tmp_path: Path) -> None:
    tree = write(tmp_path / "tree", {"a/x": "1", "b": "2", "target": "t"})
    (tree / "link").symlink_to("a")
    fresh = write(tmp_path / "fresh", {"a": "file now", "b/x": "folder now", "target": "t"})
    (fresh / "link").symlink_to("b")
    (fresh / "dangling").symlink_to("nowhere")
    apply_sync(fresh, tree)
    assert (tree / "a").read_text() == "file now"
    assert (tree / "b/x").read_text() == "folder now"
    assert (tree / "link").readlink() == Path("b")
    assert (tree / "dangling").is_symlink()


def test_first_and_second_tree(layout: Layout, tmp_path: Path) -> None:
    apply_room(layout, "one")
    source = write(tmp_path / "given", {"setup.py": "1"})
    apply_tree(source, layout)
    write(layout.tree, {"build/temp.x/a.o": "an object"})
    write(source, {"setup.py": "2"})
    apply_tree(source, layout)
    assert files(layout.work) == {"source/setup.py": "2", "source/build/temp.x/a.o": "an object"}
