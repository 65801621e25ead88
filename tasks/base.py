"""What a task is: a schema of what may be asked, and the way from a caller's input to an effective one."""

from __future__ import annotations

import hashlib
import json
import secrets
from abc import ABC, abstractmethod
from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, Literal, TypeAlias, TypeVar

from core.errors import FieldProblem
from tasks.fields import MAX_SEED, TaskInput
from tasks.validation import refusal, validated

Output: TypeAlias = Literal["image", "video", "audio", "json", "mesh"]
InputT = TypeVar("InputT", bound=TaskInput)


@dataclass(frozen=True)
class Adjustment:
    """One value of the input that was changed to one that can be made, or a preset's that the caller's own replaced.

    `at` is `submit`, or `run` when the change needed the fetched media.
    """

    field: str
    from_: Any
    to: Any
    reason: str
    at: Literal["submit", "run"] = "submit"

    def as_json(self) -> dict[str, Any]:
        """The entry of `inputAdjustments`."""
        return {"field": self.field, "from": self.from_, "to": self.to, "reason": self.reason, "at": self.at}


@dataclass(frozen=True)
class Prepared:
    """An input ready to be priced and run.

    `effective_input` has every default filled in, the seed included, under camelCase names, and is itself a valid
    input; `seed_drawn` says that the seed is ours and not the caller's.
    """

    effective_input: dict[str, Any]
    adjustments: tuple[Adjustment, ...]
    warnings: tuple[str, ...]
    seed_drawn: bool


@dataclass
class Findings:
    """What a task notes down while it completes an input."""

    problems: list[FieldProblem] = field(default_factory=list)
    adjustments: list[Adjustment] = field(default_factory=list)
    overrides: list[Adjustment] = field(default_factory=list)
    _exact: dict[str, Any] = field(default_factory=dict)

    def refuse(self, name: str, message: str, *, allowed: Any = None, nearest: Any = None) -> None:
        """The field `name` cannot stand beside the others."""
        self.problems.append(FieldProblem(f"input.{name}", message, allowed, nearest))

    def adjust(self, name: str, given: Any, to: Any, reason: str, *, exact: Any = ...) -> None:
        """The field `name` is changed; `exact` is what would have needed no change, if not `to` itself; None if nothing."""
        self.adjustments.append(Adjustment(name, given, to, reason))
        self._exact[name] = to if exact is ... else exact

    def follow(self, name: str, given: Any, to: Any, reason: str) -> None:
        """The field `name` is changed, but to what its default stands for: the trail says so, and strict mode lets it be."""
        self.overrides.append(Adjustment(name, given, to, reason))

    def fill(self, effective: dict[str, Any], given: Set[str], preset: str, values: Mapping[str, Any]) -> None:
        """Put a preset's `values` where the caller gave none; a given one that differs stays, and the trail says so."""
        for name, value in values.items():
            if name not in given:
                effective[name] = value
            elif effective[name] != value:
                reason = f"given; the preset {preset} has {json.dumps(value)}"
                self.overrides.append(Adjustment(name, value, effective[name], reason))

    def refuse_adjustments(self) -> None:
        """Strict mode: every adjustment becomes a problem. A preset overridden and a default given are none."""
        for change in self.adjustments:
            self.refuse(
                change.field,
                f"{change.from_} would be changed to {change.to} ({change.reason}), which strict mode refuses",
                nearest=self._exact[change.field],
            )


class Task(ABC, Generic[InputT]):
    """One thing that a caller may ask for. A task holds no state and knows no price, no pool's address and no model."""

    name: ClassVar[str]
    """Its name on the wire, such as `image.generate`."""
    title: ClassVar[str]
    """What it does, for people."""
    model: ClassVar[str]
    """The model behind it, for people."""
    output: ClassVar[Output]
    """The kind of its one deliverable."""
    Input: type[InputT]
    """The schema of its input."""

    @abstractmethod
    def complete(self, given: InputT, findings: Findings) -> dict[str, Any]:
        """The effective input of a well-formed one, but for the seed; what is wrong or changed goes to `findings`."""

    @abstractmethod
    def pools(self, effective_input: Mapping[str, Any]) -> tuple[str, ...]:
        """The model pools that its chain passes, in order."""

    @abstractmethod
    def prior_seconds(self, effective_input: Mapping[str, Any]) -> float:
        """Run time in seconds on one GPU of the H100 class, as assumed before any was measured."""

    def output_seconds(self, effective_input: Mapping[str, Any]) -> float | None:
        """How long the deliverable plays, as far as the input tells; None when it does not play, or only the run tells."""
        return None

    def warnings(self, effective_input: Mapping[str, Any]) -> tuple[str, ...]:
        """What is made as asked, but may disappoint. Inline media are taken for what their MIME type says."""
        return ()

    def prepare(self, raw: object, *, strict: bool = False) -> Prepared:
        """The effective input of `raw` (parsed JSON); `strict` refuses every adjustment.

        Raises:
            InvalidInput: a field is unknown, of the wrong type, out of bounds, or at odds with another.
        """
        given = validated(self.Input, raw)
        findings = Findings()
        effective = self.complete(given, findings)
        if strict:
            findings.refuse_adjustments()
        if findings.problems:
            raise refusal(findings.problems)
        effective["seed"] = secrets.randbelow(MAX_SEED + 1) if given.seed is None else given.seed
        trail = (*findings.adjustments, *findings.overrides)
        return Prepared(effective, trail, self.warnings(effective), given.seed is None)

    @staticmethod
    def hash_input(effective_input: Mapping[str, Any], seed_drawn: bool) -> str:
        """SHA-256, in hex, of the canonical JSON of `effective_input`, without a seed that was drawn."""
        counted = {key: value for key, value in effective_input.items() if not (seed_drawn and key == "seed")}
        text = json.dumps(counted, sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()
