"""What callers will ask for, drawn from the seed before anything runs: the same seed gives the same jobs."""

from __future__ import annotations

import base64
import io
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache

import numpy as np
from PIL import Image

from tests.chaos.storm.engine import FAULTS
from tests.chaos.storm.ground import Json

ALWAYS = 1000


@dataclass
class Wish:
    """One job as its caller wants it, and what the caller does besides."""

    name: str
    body: Json
    kind: str
    customer: int
    at: float
    """Seconds after the begin of the load."""
    crowd: int = 1
    """How many callers send it at once, with one idempotency key."""
    impatient: bool = False
    """The first request is given up after a few milliseconds; nobody knows whether it arrived."""
    vanishes: bool = False
    """Nobody asks again after that."""
    cancels: Sequence[float] = ()
    """Seconds after the answer at which it is cancelled."""
    prefer_wait: int | None = None
    webhook: bool = False
    answers: set[str] = field(default_factory=set)
    prices: set[int] = field(default_factory=set)
    promises: set[str] = field(default_factory=set)
    """What each 202 said the job would be, and would cost, as JSON."""
    ends: set[str] = field(default_factory=set)
    """The states that its cancels were answered with."""
    refused: list[str] = field(default_factory=list)
    given_up: bool = False


@cache
def _picture() -> Json:
    out = io.BytesIO()
    Image.fromarray(np.arange(64 * 64 * 3, dtype=np.uint8).reshape(64, 64, 3)).save(out, "png")
    return {"mimeType": "image/png", "dataBase64": base64.b64encode(out.getvalue()).decode()}


def drawn(seed: int, jobs: int, seconds: float, customers: int, *, real: bool) -> list[Wish]:
    """`jobs` wishes of so many customers, spread over `seconds`, in the order of time."""
    dice = random.Random(seed)
    return [
        _wish(dice, f"{seed}-{number}", number * seconds / jobs, dice.randrange(customers), real=real)
        for number in range(jobs)
    ]


def flood(seed: int, number: int, at: float, customer: int) -> list[Wish]:
    """A burst of `number` short jobs of one customer."""
    dice = random.Random(seed)
    return [
        Wish(
            f"flood-{seed}-{each}", _image(f"flood-{seed}-{each}", dice.uniform(0.05, 0.2), dice), "flood", customer, at
        )
        for each in range(number)
    ]


def quiet(seed: int, name: str, number: int, customer: int) -> list[Wish]:
    """Jobs that one customer sends one after the other, each when the one before has ended."""
    dice = random.Random(seed)
    return [
        Wish(f"{name}-{seed}-{each}", _image(f"{name}-{seed}-{each}", 0.2, dice), name, customer, 0.0)
        for each in range(number)
    ]


def _wish(dice: random.Random, name: str, at: float, customer: int, *, real: bool) -> Wish:
    kind = dice.choices(
        ["image", "long", "two-segment", "fault", "poison", "endless", "edit"], [61, 14, 11, 8, 2, 1, 3 if real else 0]
    )[0]
    seconds = dice.uniform(0.05, 0.6)
    match kind:
        case "two-segment":
            body = _video(name, seconds, dice)
        case "edit":
            body = {"task": "image.edit", "input": {"prompt": f"paint it {name}", "sourceImage": _picture()}}
        case "long":
            body = _image(name, dice.uniform(1.2, 3), dice)
        case "endless":
            # Far longer than a permit is believed: whoever runs it without one is seen.
            body = _image(name, dice.uniform(35, 45), dice)
        case "fault":
            body = _image(name, seconds, dice, fault=dice.choice(FAULTS), times=1)
        case "poison":
            body = _image(name, seconds, dice, fault=dice.choice(FAULTS), times=ALWAYS)
        case _:
            body = _image(name, seconds, dice)
    wish = Wish(name, body, kind, customer, at)
    body["priority"] = dice.choice(["interactive", "standard", "batch"])
    wish.webhook = dice.random() < 0.35
    if dice.random() < 0.12:
        first = dice.uniform(0, 2.5)
        wish.cancels = (first, first + dice.uniform(0, 0.3)) if dice.random() < 0.4 else (first,)
    if dice.random() < 0.03:
        body["startTimeoutSeconds"] = dice.randint(1, 3)
    if dice.random() < 0.04:
        body["cancelAfterSeconds"] = dice.randint(1, 3)
    if dice.random() < 0.08:
        wish.prefer_wait = dice.randint(1, 5)
    wish.crowd = dice.randint(3, 8) if dice.random() < 0.04 else 1
    if kind == "endless":
        wish.cancels = (dice.uniform(6, 10),)
        return wish
    wish.impatient = dice.random() < 0.08
    wish.vanishes = wish.impatient and dice.random() < 0.3
    return wish


def _image(name: str, seconds: float, dice: random.Random, *, fault: str | None = None, times: int = 1) -> Json:
    order = {"id": name, "s": round(seconds, 3)} | ({"fault": fault, "times": times} if fault else {})
    side = {"width": 256, "height": 256, "seed": dice.randrange(2**31)}
    if dice.random() < 1 / 3:
        # The service draws one, and every answer under the same key must name that one.
        del side["seed"]
    return {"task": "image.generate", "input": {"prompt": json.dumps(order), **side}}


def _video(name: str, seconds: float, dice: random.Random) -> Json:
    order = json.dumps({"id": name, "s": round(seconds, 3)})
    return {
        "task": "video.generate",
        "input": {"prompt": order, "durationFrames": 9, "width": 256, "height": 256, "seed": dice.randrange(2**31)},
    }
