from __future__ import annotations

from pathlib import Path

import pytest

from provision.build.failure import first_error

RECORDED = Path(__file__).parents[2] / "facts" / "build" / "compile_error.log"


def test_recorded_log_gives_the_compilers_line() -> None:
    found = first_error(RECORDED.read_text().splitlines())
    assert found.endswith("csrc/adam/cpu_adam_impl.cpp:22:24: error: expected ‘;’ before ‘}’ token")


@pytest.mark.parametrize(
    ("log", "found"),
    [
        ([], ""),
        (["all well", "x.cpp:1:2: warning: error: is only a word"], ""),
        (["x.cpp:3:10: fatal error: aio.h: No such file", "y.cpp:1:1: error: later"], 0),
        (["x.cpp:1:1: error: late", "g++: fatal error: Killed signal terminated program cc1plus"],
         1),
        (["/usr/bin/ld: warning: x", "/usr/bin/ld: cannot find -laio: No such file"], 1),
        (["ModuleNotFoundError: No module named 'torch'", "ERROR: No matching distribution"], 1),
        (["Traceback (most recent call last):", "RuntimeError: Error compiling objects for x",
          "ValueError: CCL_ROOT is missing: set it"], 2),
        (["cc1plus: error: bad value (‘x86-64-v9’) for ‘-march=’ switch"], 0),
        (["collect2: error: ld returned 1", "/usr/bin/ld: a.o: undefined reference to `f'"], 0),
    ],
)  # fmt: skip
def test_the_cause_and_not_what_follows(log: list[str], found: int | str) -> None:
    assert first_error(log) == (log[found] if isinstance(found, int) else found)
