"""Where the frames of a clip go while an engine makes them, and where they come from: never through a driver.

A clip on its way from one segment of a job to the next is stored (its mezzanine); the last one becomes a film, the file
that the caller gets. Both are drawn chunk by chunk, on the machine that makes them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from media.clip import SAMPLE_RATE, Clip, counted, lasting
from storage import Artifact, Store
from storage.pieces import Pieces
from storage.scratch import scratch

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


@dataclass(frozen=True)
class StoredClip:
    """A clip in the store: its frames under the key `picture`, its sound (FLAC) under `sound`, None for silence.

    `rate` is its frames a second as a fraction, such as `25` or `30000/1001`.
    """

    picture: str
    sound: str | None
    width: int
    height: int
    frames: int
    rate: str

    @property
    def fps(self) -> Fraction:
        """Frames a second."""
        return Fraction(self.rate)


@dataclass(frozen=True)
class Mezzanine:
    """A clip is to be stored, for a later segment, under keys that begin with `folder`/."""

    folder: str


@dataclass(frozen=True)
class Film:
    """A clip is to become a file of `width` x `height` pixels and just `frames` frames, in `folder`.

    `xmp` is a packet of metadata to carry.
    """

    folder: str
    width: int
    height: int
    frames: int
    xmp: bytes | None = None


Sink = Mezzanine | Film


def _silently() -> None:
    return


def take(
    sink: Sink, clip: Clip, store: Store, on_rest: Callable[[], None] = _silently
) -> StoredClip | list[dict[str, Any]]:
    """Draw the whole of `clip` into `sink`: a stored clip, or the outputs of a job, its file first.

    `on_rest` is called after the last frame, because what follows is the store's work alone, and between the files that are
    stored; it may end the work by raising.

    Raises:
        Miscounted: it had another number of frames than it said; nothing is stored.
        StoreUnavailable: the store fails.
    """
    if isinstance(sink, Mezzanine):
        return _keep(sink, clip, store, on_rest)
    return publish(sink, clip, store, on_rest)


def _keep(sink: Mezzanine, clip: Clip, store: Store, on_rest: Callable[[], None]) -> StoredClip:
    from media import mezzanine

    sound = None
    if clip.sound is not None:
        sound = store.put(f"{sink.folder}/sound.flac", mezzanine.flac(clip.sound), mezzanine.SOUND_MIME_TYPE).key
    with closing(store.draft(f"{sink.folder}/mezzanine.mkv", mezzanine.MIME_TYPE)) as draft:
        with mezzanine.MezzanineWriter(draft, clip.width, clip.height, clip.fps) as writer:
            for chunk in counted(clip):
                writer.write(chunk)
        on_rest()
        picture = draft.keep().key
    return StoredClip(picture, sound, clip.width, clip.height, clip.frames, str(clip.fps))


def publish(film: Film, clip: Clip, store: Store, on_rest: Callable[[], None] = _silently) -> list[dict[str, Any]]:
    """Draw the whole of `clip` into a file, and store it with a poster and a thumbnail; the outputs, the file first.

    `on_rest` is that of `take`.

    Raises:
        Miscounted: the clip has another number of frames than it said.
        StoreUnavailable: the store fails.
    """
    from media.video import VideoWriter

    clip = lasting(clip, film.frames)
    first: npt.NDArray[np.uint8] | None = None
    with scratch() as folder:
        path = folder / "video.mp4"
        with VideoWriter(
            path,
            width=film.width,
            height=film.height,
            fps=clip.fps,
            source_width=clip.width,
            source_height=clip.height,
            sound=clip.sound,
            xmp=film.xmp,
        ) as writer:
            for chunk in counted(clip):
                first = chunk[:1].copy() if first is None else first
                writer.write(chunk)
        on_rest()
        assert first is not None
        return outputs(path, first, film, clip.fps, store, on_rest)


def outputs(
    path: Path,
    first: npt.NDArray[np.uint8],
    film: Film,
    fps: Fraction,
    store: Store,
    on_rest: Callable[[], None] = _silently,
) -> list[dict[str, Any]]:
    """Store the file at `path` as what `film` says, with a poster and a thumbnail of its `first` frame.

    That is one frame of I420 of any size, uint8 (1, rows, width). The outputs, the file first. `on_rest` is called between
    them, as in `take`.

    Raises:
        StoreUnavailable: the store fails.
    """
    from media import preview, stills, video

    still = stills.poster(first, (film.width, film.height), xmp=film.xmp)
    small = still.preview
    file = store.put(f"{film.folder}/video.mp4", path, video.MIME_TYPE)
    on_rest()
    poster = store.put(f"{film.folder}/poster.webp", still.content, still.mime_type)
    on_rest()
    thumbnail = store.put(f"{film.folder}/thumbnail.webp", small.content, preview.MIME_TYPE)
    sides = {"width": film.width, "height": film.height}
    played = {
        "durationSeconds": round(float(film.frames / fps), 6),
        "frames": film.frames,
        "fps": round(float(fps), 6),
        "sampleRate": SAMPLE_RATE,
    }
    return [
        {"role": "primary", **_named(file), **sides, **played, "blurhash": small.blurhash},
        {"role": "poster", **_named(poster), **sides},
        {"role": "thumbnail", **_named(thumbnail), "width": small.width, "height": small.height},
    ]


def _named(artifact: Artifact) -> dict[str, Any]:
    return {
        "key": artifact.key,
        "mimeType": artifact.mime_type,
        "bytes": artifact.bytes,
        "sha256": artifact.sha256,
    }


@contextmanager
def opened(stored: StoredClip, store: Store) -> Iterator[Clip]:
    """The stored clip, its frames read as they are drawn, until the block ends.

    Raises:
        MissingObject: nothing is there.
        StoreUnavailable: the store fails; drawing chunks may raise it too.
    """
    from media import mezzanine

    sound = None if stored.sound is None else mezzanine.unflac(store.read(stored.sound))
    chunks = mezzanine.read(Pieces(store, stored.picture), frames=stored.frames)
    yield Clip(stored.width, stored.height, stored.fps, stored.frames, chunks, sound, {})
