"""What can be wrong with the media that a caller gives us."""

from __future__ import annotations

from typing import ClassVar


class MediaError(Exception):
    """A file that cannot be used. `code` is the failure code of a job that was given it.

    `path` is where the file stands in the job's input, once somebody who knows has set it.
    """

    code: ClassVar[str]
    path: str | None = None


class InvalidMedia(MediaError):
    """The file claims a supported format, but is broken, cut off, or larger than the limits."""

    code = "invalid_media"


class UnsupportedMedia(MediaError):
    """The file is of none of the supported formats, whatever its name or its Content-Type said."""

    code = "unsupported_media"


class OverlapTooLong(MediaError):
    """What is to be cut from a clip's head is as long as the clip, or longer."""

    code = "overlap_too_long"


class NoSound(InvalidMedia):
    """The file was to be heard, and has no audio track, or one without a single sample."""


class NoPicture(InvalidMedia):
    """The file was to be seen, and has no video track, or one without a single frame."""


class MediaTooLong(MediaError):
    """The file lasts longer than is taken."""

    code = "media_too_long"


class MezzanineBroken(Exception):
    """A checkpoint that we wrote cannot be read back: cut off, or not one of ours. No caller's file is to blame."""
