"""The power goes after an environment was installed: what is marked as installed is on the disk.

An ext4 file system of its own, whose cache is thrown away as a power cut does: EXT4_IOC_SHUTDOWN,
https://man7.org/linux/man-pages/man2/ioctl.2.html, fs/ext4/ioctl.c (root, a loop device).
"""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[3]
#: _IOR('X', 125, __u32), and EXT4_GOING_FLAGS_NOLOGFLUSH: the journal's tail is lost, too.
SHUTDOWN, NO_LOG_FLUSH = 0x8004587D, b"\2\0\0\0"
INSTALL = """\
import sys
from pathlib import Path
from provision.onhost.install import mark_installed
folder = Path(sys.argv[1])
folder.mkdir()
for number in range(200):
    (folder / f"{number}.py").write_text(f"number = {number}\\n" * 50)
mark_installed(str(folder / "installed"))
"""


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A mounted file system that can lose its power."""
    if os.geteuid() != 0:
        pytest.skip("needs root: a file system of its own")
    image, mount = tmp_path / "image", tmp_path / "disk"
    mount.mkdir()
    with image.open("wb") as file:
        file.truncate(64 << 20)
    subprocess.run(["mkfs.ext4", "-q", image], check=True)
    done = subprocess.run(
        ["mount", "-o", "loop", image, mount], capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip(f"needs root with loop devices: {done.stderr.strip()}")
    try:
        yield mount
    finally:
        subprocess.run(["umount", mount], check=True)


def cut_power(disk: Path) -> None:
    """Lose what is not on the disk, and have it mounted as after a start."""
    folder = os.open(disk, os.O_RDONLY)
    fcntl.ioctl(folder, SHUTDOWN, NO_LOG_FLUSH)
    os.close(folder)
    source = subprocess.run(
        ["findmnt", "-no", "SOURCE", disk], capture_output=True, text=True, check=True
    ).stdout.strip()
    backing = Path(f"/sys/block/{Path(source).name}/loop/backing_file").read_text().strip()
    subprocess.run(["umount", disk], check=True)
    subprocess.run(["mount", "-o", "loop", backing, disk], check=True)


def test_an_environment_that_is_marked_as_installed_is_whole_after_a_power_cut(disk: Path) -> None:
    folder = disk / "environment"
    subprocess.run([sys.executable, "-c", INSTALL, str(folder)], cwd=CHECKOUT, check=True)
    cut_power(disk)
    assert (folder / "installed").exists()
    for number in range(200):
        assert (folder / f"{number}.py").read_text() == f"number = {number}\n" * 50
