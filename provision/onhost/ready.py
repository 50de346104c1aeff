"""May this run start here, now? Read-only questions of one host, for preflight.

    ready.py paths JSON            {"output": PATH, "model": PATH}
    ready.py listen PORT TOKEN N   accept N dials on PORT (at most 20 s), answer how many came
    ready.py dial ADDRESS PORT TOKEN

Standard library only, Python 3.8 or later. Leaves nothing behind: the file that shows an output
folder to be writable is removed again.
"""

from __future__ import annotations

import errno
import glob
import json
import os
import re
import shutil
import socket
import sys
import tempfile
import time

DIAL_SECONDS = 5
LISTEN_SECONDS = 20


def output_folder(path: str) -> dict[str, object]:
    """Whether ``path`` can be written: the nearest folder that exists takes a file, really."""
    folder = os.path.abspath(os.path.expanduser(path))
    while not os.path.lexists(folder):
        folder = os.path.dirname(folder)
    answer: dict[str, object] = {"path": path, "nearest": folder}
    try:
        # A file without a name where Linux can make one: not even the folder's time changes.
        with tempfile.TemporaryFile(dir=folder, prefix=".zerofleet-"):
            pass
        answer["free"] = shutil.disk_usage(folder).free
    except OSError as error:
        answer["error"] = error.strerror or str(error)
    return answer


def model_folder(path: str) -> dict[str, object]:
    """Whether ``path`` is a model folder: config.json, weights and a tokenizer, not git pointers.

    A name that is no path here may be one on the hub (org/name): its snapshot is then looked for
    in the cache that transformers would use.
    """
    folder = os.path.expanduser(path)
    hub = not os.path.isdir(folder) and re.match(r"^[\w.-]+/[\w.-]+$", path)
    if hub:
        cache = os.environ.get("HF_HUB_CACHE") or os.path.join(
            os.environ.get("HF_HOME") or os.path.expanduser("~/.cache/huggingface"), "hub"
        )
        pattern = os.path.join(cache, "models--" + path.replace("/", "--"), "snapshots", "*")
        return {"hub": True, "cached": bool(glob.glob(os.path.join(pattern, "config.json")))}
    if not os.path.isdir(folder):
        return {"error": "no such folder"}
    names = os.listdir(folder)
    if "config.json" not in names:
        return {"error": "no config.json in it"}
    weights = [n for n in names if n.endswith((".safetensors", ".bin"))]
    if not weights:
        return {"error": "no weights (*.safetensors, *.bin) in it"}
    pointers = [n for n in weights if os.path.getsize(os.path.join(folder, n)) < 200]
    if pointers:
        return {"error": pointers[0] + " is a git-lfs pointer, not weights"}
    return {"bytes": sum(os.path.getsize(os.path.join(folder, n)) for n in weights)}


def holder_of(port: int) -> str:
    """Who listens on a TCP port, as far as this user may see: "pid 12 (python3)"."""
    inodes = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            with open(table) as stream:
                rows = [line.split() for line in stream.readlines()[1:]]
        except OSError:
            continue
        inodes |= {r[9] for r in rows if r[3] == "0A" and int(r[1].rsplit(":", 1)[1], 16) == port}
    for fd in glob.glob("/proc/[0-9]*/fd/*"):
        try:
            target = os.readlink(fd)
            if target[:8] == "socket:[" and target[8:-1] in inodes:
                pid = fd.split("/")[2]
                with open("/proc/%s/comm" % pid) as stream:
                    return "pid %s (%s)" % (pid, stream.read().strip())
        except OSError:  # another user's, or it ended while we looked
            continue
    return "another user's process"


def listen(port: int, token: str, dials: int) -> dict[str, object]:
    """Really listen on every address, as torchrun's store will, and answer each right token."""
    family = socket.AF_INET6 if socket.has_ipv6 else socket.AF_INET
    try:
        server = socket.socket(family, socket.SOCK_STREAM)
    except OSError:
        family = socket.AF_INET
        server = socket.socket(family, socket.SOCK_STREAM)
    with server:
        # As torch's TCPStore: a port in TIME_WAIT is free, one that is listened on is not.
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        try:
            server.bind(("", port))
            server.listen(128)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return {"error": "in use by " + holder_of(port)}
            return {"error": error.strerror or str(error)}
        print("ZEROFLEET-LISTENING", flush=True)
        came, deadline = 0, time.monotonic() + LISTEN_SECONDS
        while came < dials and time.monotonic() < deadline:
            server.settimeout(max(0.05, deadline - time.monotonic()))
            try:
                peer, _ = server.accept()
            except socket.timeout:
                break
            with peer:
                peer.settimeout(DIAL_SECONDS)
                try:
                    if peer.recv(256).decode("ascii", "replace").strip() == token:
                        peer.sendall(token[::-1].encode())
                        came += 1
                except OSError:
                    continue
        return {"came": came}


def dial(address: str, port: int, token: str) -> dict[str, object]:
    """Reach the listener at ``address``, and be sure it is ours: it answers the token turned."""
    try:
        resolved = sorted({str(info[4][0]) for info in socket.getaddrinfo(address, port)})
    except OSError as error:
        return {"error": "the name does not resolve here (%s)" % (error.strerror or error)}
    began = time.monotonic()
    try:
        with socket.create_connection((address, port), timeout=DIAL_SECONDS) as peer:
            peer.sendall(token.encode())
            reply = peer.recv(256).decode("ascii", "replace")
    except OSError as error:
        reason = (
            "no answer in %d s" % DIAL_SECONDS
            if isinstance(error, socket.timeout)
            else (error.strerror or str(error))
        )
        return {"resolved": resolved, "error": reason}
    if reply != token[::-1]:
        return {"resolved": resolved, "error": "something else answered on that port"}
    return {"resolved": resolved, "seconds": time.monotonic() - began}


def paths(wanted: dict[str, str]) -> dict[str, object]:
    """The answers for each path of a run."""
    answer: dict[str, object] = {}
    if wanted.get("output"):
        answer["output"] = output_folder(wanted["output"])
    if wanted.get("model"):
        answer["model"] = model_folder(wanted["model"])
    return answer


if __name__ == "__main__":
    what, args = sys.argv[1], sys.argv[2:]
    if what == "paths":
        result = paths(json.loads(args[0]))
    elif what == "listen":
        result = listen(int(args[0]), args[1], int(args[2]))
    else:
        result = dial(args[0], int(args[1]), args[2])
    print("ZEROFLEET<<%s>>ZEROFLEET" % json.dumps(result))
