"""Hosts that the tests of this room start from."""

from __future__ import annotations

import pytest


def gpu(name, capability):
    return {"index": "0", "name": name, "compute_cap": capability}


A100, H100 = gpu("NVIDIA A100-SXM4-80GB", "8.0"), gpu("NVIDIA H100 80GB HBM3", "9.0")
PY312 = {"path": "/usr/bin/python3.12", "version": "3.12.3", "venv": True}
PY311 = {"path": "/usr/bin/python3", "version": "3.11.2", "venv": True}


@pytest.fixture
def rack(make_facts):
    """An A100 host with an old OS, and an H100 host with a new one."""
    old = {"gpus": [A100, A100], "glibc": "2.31", "glibcxx": "3.4.28", "pythons": [PY311, PY312]}
    new = {"gpus": [H100], "cpu_level": "x86-64-v4", "glibc": "2.39", "pythons": [PY312]}
    return {"node1": make_facts("node1", **new), "node2": make_facts("node2", **old)}
