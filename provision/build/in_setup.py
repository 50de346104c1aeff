"""What DeepSpeed's setup.py finds changed around it, for speed alone: no flag and no file differs.

**A folder of objects for every op.** cpu_adam and fused_adam compile the same file, each with its
own module name as a macro (TORCH_EXTENSION_NAME of torch/utils/cpp_extension.py), and setuptools
gives both the one path build/temp…/csrc/adam/cpu_adam_impl.o. So whichever op is built takes the
object from the other, and a build in which nothing else changed compiles that file twice.

**The CPU is asked once.** op_builder/builder.py calls py-cpuinfo's get_cpu_info anew for every flag
of every op, and each call starts a Python and takes over a second: half a minute for seven ops.
"""

from __future__ import annotations

from pathlib import Path

#: A sitecustomize.py: Python imports it from PYTHONPATH at its start, before setup.py runs.
#: https://docs.python.org/3/library/site.html#module-sitecustomize
#: ``build_temp`` is where objects go, and ``build_extension`` what is called for each op:
#: https://setuptools.pypa.io/en/latest/userguide/ext_modules.html
SITE = """\
import functools
import os
import sys

if sys.argv[0] != "-m":  # build's own process: it runs setup.py in another one
    try:
        from setuptools.command.build_ext import build_ext
    except ImportError:
        pass
    else:
        whole = build_ext.build_extension

        def build_extension(self, ext):
            shared = self.build_temp
            self.build_temp = os.path.join(shared, ext.name)
            try:
                return whole(self, ext)
            finally:
                self.build_temp = shared

        build_ext.build_extension = build_extension
    try:
        import cpuinfo
    except ImportError:
        pass
    else:
        cpuinfo.get_cpu_info = functools.lru_cache(maxsize=None)(cpuinfo.get_cpu_info)
"""


def apply_site(folder: Path) -> None:
    """Write SITE into a folder that is to be the compilation's PYTHONPATH."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(SITE, encoding="utf-8")
