from __future__ import annotations

import _ctypes
from pathlib import Path

from provision.wheel.binary import Floors, floors_of, highest, read_floors


def test_floors_go_by_number() -> None:
    names = ["GLIBC_2.4", "GLIBC_2.34", "GLIBC_PRIVATE", "GLIBCXX_3.4.9", "GLIBCXX_3.4.30",
             "CXXABI_1.3.13"]  # fmt: skip
    assert floors_of(names) == Floors(glibc="2.34", glibcxx="3.4.30")
    assert highest([]) == ""


def test_read_a_real_module() -> None:
    floors = read_floors(Path(_ctypes.__file__))
    assert floors.glibc.startswith("2.")
    assert floors.glibcxx == ""  # C
