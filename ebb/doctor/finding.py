"""Findings, and how they are found: every check of a list is asked about one subject, and none can stop the others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, TypeVar

from ebb.errors import EbbError, Exit, UsageError
from ebb.events import Progress, Sink, ignored
from ebb.understand.wandering import Way

S = TypeVar("S")
T = TypeVar("T")
Severity = Literal["error", "warning"]


@dataclass(frozen=True)
class Suspect:
    """Examples that show a finding, by their rows in the data (side by side, where one is like another), and why."""

    rows: tuple[int, ...]
    why: str


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong: what a user sees, the figures that show it, why it happens, and what to do about it.

    `commands` do it in a shell, one after the other, each to be pasted as it is; `suspects` are what to look at first.
    """

    name: str
    symptom: str
    evidence: str
    cause: str
    advice: str
    severity: Severity = "warning"
    commands: tuple[str, ...] = ()
    suspects: tuple[Suspect, ...] = ()

    def __str__(self) -> str:
        told = f"{self.severity}: {self.symptom}\n  {self.evidence}\n  because {self.cause}\n  → {self.advice}"
        return "\n    ".join([told, *self.commands])


UNLEARNT = frozenset({
    "too short", "rate too low", "noise left", "grey", "samples alike", "colour shift", "brightness shift", "blurry",
    "grainy", "out of range", "too few steps", "labels missing",
})  # fmt: skip
"""What is found of a network that has learnt little, whatever kept it from learning."""

BRINGS_ABOUT: dict[str, frozenset[str]] = {
    "base missing": frozenset({"the model missing"}),
    "parameters not finite": frozenset({"not finite at the ends"}),
    "wrong shape": frozenset({"bottleneck"}),
    "bottleneck": UNLEARNT | {"average too long", "rate too high"},
    "time ignored": frozenset({"noise left"}),
    "input scale": frozenset({"noise left", "condition ignored"}),
    "stopped early": UNLEARNT | {"average too long"},
    "diverged": UNLEARNT | {"rate too high", "average too long"},
    "rate too low": UNLEARNT,
    "rate too high": UNLEARNT,
    "too short": UNLEARNT,
}
"""Causes, and the findings that come with them. Nothing helps against these before the cause is gone, so they stand
behind it; of several causes the first counts."""


def causes_first(findings: Sequence[Finding]) -> list[Finding]:
    """The findings, errors first; behind all others those that another brings about, without advice of their own."""
    by_name = {finding.name: finding for finding in findings}
    own, brought = list[Finding](), list[Finding]()
    for finding in sorted(findings, key=lambda finding: finding.severity != "error"):
        roots = (by_name[name] for name, more in BRINGS_ABOUT.items() if name in by_name and finding.name in more)
        cause = next((root for root in roots if root is not finding), None)
        if cause is None:
            own.append(finding)
        else:
            because = f"it comes of what stands above: {cause.symptom}"
            brought.append(replace(finding, cause=because, advice="mend that first", commands=()))
    return own + brought


SPOKEN = 3
"""Warnings that a verdict names."""


@dataclass(frozen=True)
class Diagnosis:
    """What was looked at and what was found, JSON-able through dataclasses.asdict.

    `checked` names the checks that were made; `unchecked` those that could not be, `inapplicable` those for which there
    is nothing to check, each as "name: why". `facts` say in words what was looked at.
    """

    subject: str
    kind: Literal["run", "data", "model"]
    checked: list[str]
    findings: list[Finding]
    unchecked: list[str] = field(default_factory=list)
    inapplicable: list[str] = field(default_factory=list)
    unkept: str = ""
    """why it could not be kept in the run"""
    way: Way | None = None
    """of a run, how its samples come about"""
    facts: tuple[str, ...] = ()

    @property
    def code(self) -> Exit:
        """What the command line ends with: an error was found, something could not be looked at, or neither."""
        if any(finding.severity == "error" for finding in self.findings):
            return Exit.ERROR
        return Exit.UNCHECKED if self.unchecked else Exit.DONE

    @property
    def verdict(self) -> str:
        """Of data, whether it is fit to train on, and because of what; "" of anything else.

        What is worth a look stops nobody, an error does.
        """
        if self.kind != "data":
            return ""
        errors, warnings = ([f.symptom for f in self.findings if f.severity == each] for each in ("error", "warning"))
        if errors:
            return f"fit to train: no, because {'; '.join(errors)}"
        more = f"; and {len(warnings) - SPOKEN:,} more" if len(warnings) > SPOKEN else ""
        worth = f"; worth a look first: {'; '.join(warnings[:SPOKEN])}{more}" if warnings else ""
        return f"fit to train: yes, because none of {len(self.checked)} checks found an error{worth}"

    def __str__(self) -> str:
        head = [self.verdict, *self.facts] if self.verdict else []
        found = [*head, *map(str, self.findings)]
        end = [] if self.findings else [f"{self.subject}: nothing found in {len(self.checked)} checks"]
        unkept = [f"not kept: {self.unkept}"] if self.unkept else []
        left = [f"could not check {reason}" for reason in by_reason(self.unchecked)]
        left += [f"nothing to check for {reason}" for reason in by_reason(self.inapplicable)]
        way = [str(self.way)] if self.way else []
        return "\n".join(found + end + left + way + unkept)


def by_reason(unchecked: Sequence[str]) -> list[str]:
    """Lines "name: why" with the names of each reason together: "name, name: why"."""
    names: dict[str, list[str]] = {}
    for line in unchecked:
        name, _, why = line.partition(": ")
        names.setdefault(why, []).append(name)
    return [f"{', '.join(each)}: {why}" for why, each in names.items()]


Check = Callable[[S], Finding | None]
"""`check_what_is_wrong(subject)`, or an object with a `name`: a finding, or None. Raises an EbbError that says why
where it cannot tell: NothingToExamineError where nobody could."""


def called(check: Check[S]) -> str:
    """The name of a check, its own or from that of its function: `check_time_ignored` → "time ignored"."""
    return str(getattr(check, "__name__", getattr(check, "name", "check"))).removeprefix("check_").replace("_", " ")


class NothingToExamineError(UsageError):
    """What is looked at has no such part, or too little of it to be judged, and need have no more."""


class Round:
    """A doctor's round: the checks made so far and what they found."""

    def __init__(self, progress: Sink = ignored) -> None:
        self.progress = progress
        self.checked: list[str] = []
        self.unchecked: list[str] = []
        self.inapplicable: list[str] = []
        self.findings: list[Finding] = []

    def examine(self, subject: Callable[[], S], checks: Sequence[Check[S]], what: str) -> None:
        """Make every check of the subject; one that fails is noted, and a subject that cannot be had is a finding."""
        try:
            found = subject()
        except NothingToExamineError as error:
            self.inapplicable.append(f"{what}: {reason(error)}")
            return
        except Exception as error:  # whatever is wrong with one part, the others are still worth a look
            self.findings.append(missing(what, error))
            return
        for check in checks:
            name = called(check)
            self.progress(Progress(f"checking: {name}"))
            try:
                finding = check(found)
            except NothingToExamineError as error:
                self.inapplicable.append(f"{name}: {reason(error)}")
                continue
            except Exception as error:
                self.unchecked.append(f"{name}: {reason(error)}")
                continue
            self.checked.append(name)
            self.findings += [finding] if finding else []

    def looked(self, look: Callable[[], T], what: str) -> T | None:
        """What a look gives that finds nothing wrong; None where it cannot be had, which is noted."""
        self.progress(Progress(f"looking at {what}"))
        try:
            return look()
        except NothingToExamineError as error:
            self.inapplicable.append(f"{what}: {reason(error)}")
            return None
        except Exception as error:  # whatever keeps it from being seen, the findings are worth having
            self.unchecked.append(f"{what}: {reason(error)}")
            return None

    def diagnosis(self, subject: str, kind: Literal["run", "data", "model"]) -> Diagnosis:
        """All of it, in the order of `causes_first`."""
        found = causes_first(self.findings)
        return Diagnosis(subject, kind, self.checked, found, self.unchecked, self.inapplicable)


def missing(what: str, error: Exception) -> Finding:
    """The finding of a subject that cannot be had: none of its checks were made."""
    said, hint = (error.what, error.hint) if isinstance(error, EbbError) else (reason(error), "")
    return Finding(
        f"{what} missing",
        f"{what} cannot be examined",
        said,
        "a part of it is not there, or damaged",
        hint or "restore it, or train again",
        "error",
    )


def reason(error: Exception) -> str:
    """What an error says, in one line."""
    return " ".join(str(error).split()) or type(error).__name__
