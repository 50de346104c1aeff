"""Unpack a run's code into its folder.

    unpack.py ARCHIVE SHA256 FOLDER    files and links of a tar archive, below FOLDER

The archive is hashed again: it may have lain in the store for long. One that is not what its name
says is removed, so that the next run sends it anew. FOLDER is there complete or not at all.
Relative paths are below HOME. Standard library only, Python 3.8 or later.
"""

from __future__ import annotations

import os
import shutil
import sys
import tarfile

from provision.onhost.converse import fail, reply
from provision.onhost.files import absolute, digest


def extract(archive: str, folder: str) -> int:
    """Write the members; how many. ValueError for one that is no file or link inside the folder."""
    count = 0
    with tarfile.open(archive, "r:gz") as tar:
        for member in tar:
            inside = os.path.normpath(member.name)
            if os.path.isabs(inside) or inside.split(os.sep)[0] == "..":
                raise ValueError("a member outside the folder: %s" % ascii(member.name))
            path = os.path.join(folder, inside)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            if member.issym():
                os.symlink(member.linkname, path)
            elif member.isreg():
                source = tar.extractfile(member)
                assert source
                with source, open(path, "xb") as target:
                    shutil.copyfileobj(source, target)
                os.chmod(path, member.mode & 0o755)
            else:
                raise ValueError("a member that is no file: %s" % ascii(member.name))
            count += 1
    return count


def unpack(archive: str, sha256: str, folder: str) -> int:
    """Hash, extract beside the folder, rename; how many files."""
    found = digest(archive)
    if found != sha256:
        os.remove(archive)
        raise ValueError("%s had sha256 %s: removed, run it again" % (archive, found[:12]))
    partial = folder + ".partial"
    shutil.rmtree(partial, ignore_errors=True)
    os.makedirs(partial)
    count = extract(archive, partial)
    os.replace(partial, folder)
    return count


if __name__ == "__main__":
    try:
        files = unpack(absolute(sys.argv[1]), sys.argv[2], absolute(sys.argv[3]))
    except (OSError, ValueError, tarfile.TarError) as error:
        fail(str(error))
    reply({"files": files})
