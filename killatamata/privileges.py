"""How a process of root runs a program as somebody else, without opening any folder to anybody.

PostgreSQL refuses to run as root. The usual way out, `chmod o+x` on every parent of its folders, opens the home and
the data of whoever started it. Linux offers a narrower one: the program runs as an ordinary user that keeps exactly
one ambient capability (capabilities(7)), the one to pass through folders.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

_NEEDED = {"chown": 0, "dac_override": 1, "kill": 5, "setgid": 6, "setuid": 7}
_DAC_READ_SEARCH, _SETPCAP = 2, 8
"""Bit numbers of linux/capability.h."""


class CannotDropRoot(RuntimeError):
    """This process cannot run a program as another user; the message says what it lacks."""


def _effective() -> int:
    """The bit mask of this process's effective capabilities."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return int(line.split()[1], 16)
    raise CannotDropRoot("the kernel tells no capabilities")


def reachable(path: Path, uid: int) -> bool:
    """Whether `uid` may read `path` and pass through every folder above it, by owner and mode alone."""
    path = path.resolve()
    for place, bit in ((path, 0o4), *((parent, 0o1) for parent in path.parents)):
        status = place.stat()
        if not status.st_mode & (bit << 6 if status.st_uid == uid else bit):
            return False
    return True


def check() -> str:
    """The path of `setpriv`, when this process can run programs as another user with it.

    Raises:
        CannotDropRoot: no `setpriv` (util-linux), or a root without the capabilities this takes.
    """
    setpriv = shutil.which("setpriv", path="/usr/sbin:/usr/bin:/sbin:/bin")
    if setpriv is None:
        raise CannotDropRoot("the program setpriv (package util-linux, on Linux only) is missing")
    effective = _effective()
    lacking = [f"CAP_{name.upper()}" for name, bit in _NEEDED.items() if not effective >> bit & 1]
    if lacking:
        raise CannotDropRoot(f"this root lacks {', '.join(lacking)}")
    return setpriv


def command_prefix(uid: int, gid: int, paths: Iterable[Path]) -> list[str]:
    """The words to put before a command so that root runs it as `uid`:`gid`, able to reach each of `paths`.

    The program has no supplementary group and can gain no privilege. It has no capability either, unless one of
    `paths` is out of its reach: then CAP_DAC_READ_SEARCH (read and pass through any folder), or CAP_DAC_OVERRIDE
    where root itself lacks the former, as in default containers.

    Raises:
        CannotDropRoot: as `check`.
    """
    setpriv, effective = check(), _effective()
    may_bound = bool(effective >> _SETPCAP & 1)
    kept, secure = "-all", []
    if not all(reachable(path, uid) for path in paths):
        if not may_bound:
            raise CannotDropRoot("this root lacks CAP_SETPCAP, and its folders are closed to others")
        kept += ",+dac_read_search" if effective >> _DAC_READ_SEARCH & 1 else ",+dac_override"
        # Without this bit access(2), by which initdb looks for its programs, leaves capabilities out of account.
        secure = ["--securebits=+no_setuid_fixup"]
    bounding = [f"--bounding-set={kept}"] if may_bound else []
    return [
        *(setpriv, *secure, f"--reuid={uid}", f"--regid={gid}", "--clear-groups", "--no-new-privs"),
        *(*bounding, f"--inh-caps={kept}", f"--ambient-caps={kept}", "--"),
    ]
