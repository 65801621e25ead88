"""Prove that no locked package ships a module by one of our top-level names, which would shadow ours or be shadowed.

The proof reads the file lists of what is installed, so it first makes sure that what is installed is what is locked.
"""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import Distribution, distributions
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import NormalizedName, canonicalize_name

ROOT = Path(__file__).resolve().parent.parent


def our_names(project: dict[str, dict[str, dict[str, list[str]]]]) -> set[str]:
    """The first parts of our packages' names."""
    return {package.partition(".")[0] for package in project["tool"]["setuptools"]["packages"]}


def shipped_names(package: Distribution) -> set[str]:
    """The names that become importable by this package, by its RECORD."""
    first = {Path(file).parts[0] for file in package.files or ()}
    return {name.partition(".")[0] for name in first if name != ".." and not name.endswith((".dist-info", ".pth"))}


def differences(lock: Path, installed: dict[NormalizedName, Distribution]) -> Iterator[str]:
    """What is locked for this platform and is not installed at that version."""
    for line in lock.read_text().splitlines():
        if line.startswith("#"):
            continue
        pin = Requirement(line.partition(" --hash=")[0])
        if pin.marker is not None and not pin.marker.evaluate():
            continue
        found = installed.get(canonicalize_name(pin.name))
        if found is None or not pin.specifier.contains(found.version, prereleases=True):
            yield f"{line} is locked, {found.version if found else 'nothing'} is installed"


def main() -> None:
    """Exit with every clash named, or silently."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    ours = our_names(project)
    installed = {canonicalize_name(found.name): found for found in distributions()}
    own = canonicalize_name(project["project"]["name"])
    locks = ("dev", "weights")
    problems = [line for lock in locks for line in differences(ROOT / "requirements" / f"{lock}.lock", installed)]
    problems += [f"{name!r} is a module of the standard library" for name in sorted(ours & sys.stdlib_module_names)]
    for name, package in sorted(installed.items()):
        if name == own:
            continue
        if package.files is None:
            problems.append(f"{name} has no RECORD, so what it ships is unknown")
        problems += [f"{name} ships {clash!r}, a name of ours" for clash in sorted(ours & shipped_names(package))]
    if problems:
        sys.exit("\n".join(problems))
    sys.stdout.write(f"names: none of {len(installed) - 1} packages ships one of our {len(ours)} top-level names\n")


if __name__ == "__main__":
    main()
