"""Hosts on which something else is installed than what was deployed, or than a wheel needs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.integration.cluster.cluster import Node
    from tests.integration.faults.conftest import Hosts, Mended, Said

#: As `pip install` of another release leaves a deployed environment behind.
OTHER_TORCH = """\
cd ~/.zerofleet/current/lib/python3*/site-packages
rm -r torch-2*.dist-info
mkdir torch-2.99.1.dist-info
printf 'Metadata-Version: 2.1\\nName: torch\\nVersion: 2.99.1\\n' >torch-2.99.1.dist-info/METADATA
sed -i "s/^__version__ = .*/__version__ = '2.99.1'/" torch/version.py
"""
#: An environment that is complete, and in use, with another wheel in it.
OTHER_WHEEL = """\
cd ~/.zerofleet
mkdir envs/0123456789abcdef
sed 's/"lock": "[0-9a-f]*"/"lock": "0123456789abcdef"/' \\
    <current/complete.json >envs/0123456789abcdef/complete.json
ln -sfn envs/0123456789abcdef current
"""
#: Its only Python says that it is 3.10, asked in any way. (It is not: no other is at hand.)
OTHER_PYTHON = """\
real=$(readlink -f "$(command -v python3)")
other=${real%/bin/*}/elsewhere
mkdir "$other"
mv "$real" "$other/python"
rm -f /usr/bin/python* /usr/local/bin/python* /bin/python*
echo 'import sys; sys.version_info = (3, 10, 12, "final", 0)' >"$other/sitecustomize.py"
cat >/usr/bin/python3 <<X
#!/bin/sh
while [ "\\$1" = -I ] || [ "\\$1" = -S ]; do shift; done
PYTHONPATH=$other exec $other/python "\\$@"
X
chmod 755 /usr/bin/python3
"""
DEPLOYED = (("node2", "torch"), ("node2", "ops"), ("node3", "environment"))


def script(node: Node, text: str) -> None:
    node.run(["sh", "-eu"], given=text)


@pytest.fixture(scope="module")
def deployed_to(mended: Mended) -> Said:
    """What is said where somebody upgraded torch by hand, and where another wheel was deployed."""
    with mended() as hosts:
        script(hosts["node2"], OTHER_TORCH)
        script(hosts["node3"], OTHER_WHEEL)
        return hosts.preflight()


def test_another_torch(deployed_to: Said) -> None:
    line = deployed_to.line("node2", "torch", *DEPLOYED)
    assert "found 2.99.1, expected 2.13.0" in line
    assert "then invoke deploy" in line


def test_another_wheel(deployed_to: Said) -> None:
    line = deployed_to.line("node3", "environment", *DEPLOYED)
    assert "found 0123456789abcdef, expected" in line
    assert line.endswith("run: invoke deploy")


def test_another_python(hosts: Hosts) -> None:
    script(hosts["node4"], OTHER_PYTHON)
    said = hosts.invoke("parity")
    line = said.line("node4", "python")
    assert "found 3.10.12, expected 3.11" in line
    assert "install python3.11 there" in line


def test_two_names_for_one_machine(hosts: Hosts) -> None:
    names = hosts.folder / "twice.txt"
    names.write_text("node1\nnode2\nnode3\n10.77.0.2\n")
    line = hosts.invoke("parity", "--hosts", str(names)).line("10.77.0.2", "same machine")
    assert "found the machine and home of node2" in line
    assert "remove one of the two from the hosts file" in line
