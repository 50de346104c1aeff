"""Two hosts on which a deploy takes seconds; without root there are none."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.cluster import cluster as bed
from tests.integration.kill.points import Stage, make_stage


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Say why these are left out where there can be no hosts."""
    here, lacking = Path(__file__).parent, bed.missing()
    for item in items:
        if lacking and here in item.path.parents:
            item.add_marker(pytest.mark.skip(reason=lacking))


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Iterator[Stage]:
    """Hosts without any environment."""
    made = make_stage(tmp_path_factory.mktemp("kill") / "two hosts", cache=cache / "xdg")
    yield made
    made.cluster.close()
