from __future__ import annotations

import _ctypes
from pathlib import Path

import pytest

from provision.wheel.cubin import (
    DeviceCode,
    UnreadableError,
    parse_fatbin,
    read_device_code,
    sorted_capabilities,
    wanted_code,
)

# The .nv_fatbin sections of small modules as nvcc 13.0 made them, for
# "8.0;9.0+PTX" and for "9.0a;10.0f"; cuobjdump 13.2 lists the same.
FACTS = Path(__file__).parents[2] / "facts" / "build"
LISTED = (FACTS / "fatbin-sm80-sm90-ptx90.bin").read_bytes()


def test_what_nvcc_made() -> None:
    assert parse_fatbin(LISTED) == wanted_code(("8.0", "9.0+PTX"))


def test_code_for_one_gpu_only_is_not_taken_for_its_family() -> None:
    found = parse_fatbin((FACTS / "fatbin-sm90a-sm100f.bin").read_bytes())
    assert found.cubins == ("9.0a", "10.0f")
    assert found.ptx == ()


def test_padding_between_two_fat_binaries() -> None:
    assert parse_fatbin(LISTED + bytes(24) + LISTED + bytes(8)) == parse_fatbin(LISTED)
    assert parse_fatbin(b"") == DeviceCode()


@pytest.mark.parametrize(
    ("section", "words"),
    [
        (b"\x7fELF" + LISTED[4:], "no fat binary of version 1 at byte 0"),
        (LISTED[:4] + b"\x02" + LISTED[5:], "no fat binary of version 1 at byte 0"),
        (LISTED[:16] + b"\x40" + LISTED[17:], "an entry of kind 64 at byte 16"),
        (LISTED[:40], "cut off at byte 16"),
        (LISTED[:3000], "cut off at byte|does not end at byte"),
        (LISTED + b"more....", "no fat binary|cut off"),
    ],
)
def test_anything_else_is_an_error_and_not_no_code(section: bytes, words: str) -> None:
    with pytest.raises(UnreadableError, match=words):
        parse_fatbin(section)


def test_a_module_without_device_code() -> None:
    assert read_device_code(Path(_ctypes.__file__)) == DeviceCode()


def test_capabilities_go_by_number() -> None:
    assert sorted_capabilities(["10.0", "9.0", "8.6", "9.0a", "9.0"]) == (
        "8.6", "9.0", "9.0a", "10.0",
    )  # fmt: skip
    assert wanted_code(("12.0", "8.0+PTX")).ptx == ("8.0",)
