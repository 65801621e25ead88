"""What can be wrong with the media that a caller gives us."""

from __future__ import annotations

from typing import ClassVar


class MediaError(Exception):
    """A file that cannot be used. `code` is the failure code of a job that was given it."""

    code: ClassVar[str]


class InvalidMedia(MediaError):
    """The file claims a supported format, but is broken, cut off, or larger than the limits."""

    code = "invalid_media"


class UnsupportedMedia(MediaError):
    """The file is of none of the supported formats, whatever its name or its Content-Type said."""

    code = "unsupported_media"


class OverlapTooLong(MediaError):
    """What is to be cut from a clip's head is as long as the clip, or longer."""

    code = "overlap_too_long"
