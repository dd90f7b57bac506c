"""Another run that a run stands on, by the hash of its weights: whether it is still what it was."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ebb.errors import UsageError
from ebb.recipe.recipe import Role
from ebb.store.checkpoint import sha256


@dataclass(frozen=True)
class Origin:
    """A run that another stands on: where it is, what it is to the other, and the sha256 of the file of its weights."""

    run: str
    sha256: str
    role: Role

    @classmethod
    def of(cls, run: str, role: Role, checkpoint: Path) -> Origin:
        """The run as it is now, at its newest `checkpoint`: the file of that part, or of its averaged weights."""
        part = checkpoint / f"{role}.safetensors"
        return cls(run, sha256(part if part.is_file() else checkpoint / "ema.safetensors"), role)

    @classmethod
    def read(cls, facts: Mapping[str, Any]) -> Origin:
        """What `facts` of one has saved."""
        return cls(facts["run"], facts["sha256"], facts["role"])

    def facts(self) -> dict[str, Any]:
        """It as JSON."""
        return asdict(self)


def unchanged(then: Iterable[Origin], now: Iterable[Origin]) -> None:
    """Raise UsageError where a run that was stood on `then` has other weights `now`."""
    found = {origin.role: origin for origin in now}
    for origin in then:
        other = found.get(origin.role)
        if other is not None and other.sha256 != origin.sha256:
            raise UsageError(
                f"the {origin.role} has been trained anew since this run began: the weights of {other.run} had sha256"
                f" {origin.sha256[:12]}…, now {other.sha256[:12]}…",
                f"bring back {other.run} as it was, or start anew with it as it is: --fresh",
            )
