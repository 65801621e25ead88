"""Which chain runs which task. A chain is one coroutine per segment; the last one's outcome settles the job."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from cluster.chains import image_edit, image_generate, video_combine, video_generate
from cluster.steps import Steps
from jobs.leases import Outcome

Segment = Callable[[Steps], Awaitable[Outcome | dict[str, Any]]]

CHAINS: Mapping[str, tuple[Segment, ...]] = {
    "image.edit": (image_edit.edit,),
    "image.generate": (image_generate.generate,),
    "video.combine": (video_combine.combine,),
    "video.generate": (video_generate.generate, video_generate.deliver),
}
