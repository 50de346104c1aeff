from __future__ import annotations

import json
from pathlib import Path

import pytest
from packaging.version import Version

from provision.build.environment import (
    MARKER,
    Environment,
    constraints_of,
    expected_torch_cuda,
    parse_facts,
    read_environment,
    render_marker,
    required_by,
)
from provision.wheel.manifest import Distribution

FACTS = Path(__file__).parents[2] / "facts" / "build"


@pytest.fixture
def reports() -> tuple[dict, dict]:
    return tuple(
        json.loads((FACTS / name).read_text()) for name in ("pip_locked.json", "pip_torch.json")
    )


def test_requires_is_torch_and_its_closure_over_both_installs(reports) -> None:
    names = [one.name for one in required_by("torch", reports)]
    # setuptools and typing-extensions came with the lock; numpy and pip did too, but torch
    # does not require them.
    assert names == [
        "filelock", "fsspec", "jinja2", "markupsafe", "mpmath", "networkx", "setuptools", "sympy",
        "torch", "typing-extensions",
    ]  # fmt: skip
    torch = next(one for one in required_by("torch", reports) if one.name == "torch")
    assert torch == Distribution(
        name="torch",
        version="2.13.0+cpu",
        sha256="6746dbcbeb526eb61330b76b41ff1b4eb848951103a892eeb080dfa2b264667b",
    )


def test_extras_and_markers_are_followed() -> None:
    def item(name: str, *requires: str) -> dict:
        archive = {"hash": f"sha256={name}"}  # as pip before 23.0 writes it
        metadata = {"name": name, "version": "1", "requires_dist": list(requires)}
        return {"metadata": metadata, "download_info": {"archive_info": archive}}

    report = {
        "environment": {"sys_platform": "linux"},
        "install": [
            item("torch", "Kit[blas]", 'no; sys_platform == "win32"', 'no; extra == "x"'),
            item("kit", 'b_las; extra == "blas"', 'no; extra == "fft"'),
            item("B-Las", "torch"),  # a circle
        ],
    }
    found = required_by("torch", [report])
    assert [one.name for one in found] == ["b-las", "kit", "torch"]
    assert found[0].sha256 == "B-Las"


def test_constraints(reports) -> None:
    assert "setuptools==84.2.1\n" in constraints_of(reports[0])


def test_marker_round_trip(tmp_path: Path) -> None:
    environment = Environment(
        path=tmp_path,
        torch="2.13.0+cpu",
        torch_cuda=None,
        torch_dist="2.13.0+cpu",
        requires=(Distribution(name="torch", version="2.13.0+cpu", sha256="ab"),),
    )
    assert read_environment(tmp_path) is None
    (tmp_path / MARKER).write_text(render_marker(environment))
    assert read_environment(tmp_path) == environment
    (tmp_path / MARKER).write_text("{}")
    assert read_environment(tmp_path) is None


@pytest.mark.parametrize(
    ("torch", "cuda"),
    [("2.13.0", "13.0"), ("2.13.0+cu128", "12.8"), ("2.9.1+cu130", "13.0"), ("2.99.0", ""),
     ("2.13.0+xpu", "")],
)  # fmt: skip
def test_expected_torch_cuda(torch, cuda) -> None:
    assert expected_torch_cuda(Version(torch)) == cuda


def test_facts_among_noise() -> None:
    assert parse_facts('hello\nzerofleet-facts {"torch": "2"}\n') == {"torch": "2"}
    assert parse_facts("Traceback") is None
