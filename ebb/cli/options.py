"""Options that a verb does not have, answered with the one that is meant."""

from __future__ import annotations

import dataclasses
import difflib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from typing import Annotated, Any, cast, get_args, get_origin, get_type_hints

import tyro

from ebb.cli.overview import VERBS
from ebb.errors import UsageError, nearest

PROMPT = ("text", "texts", "prompt", "prompts", "caption")
LABEL = ("label", "labels", "class", "classes", "class-label", "y")
COUNT = ("count", "num", "number", "num-samples", "samples", "num-images", "images", "frames", "versions")
PLACE = ("out", "output", "output-dir", "outdir", "o", "save", "dest", "run", "name", "dir", "logdir", "workdir")
MEANT = [
    ("text", "prompts", PROMPT),
    ("label", "a label", LABEL),
    ("labels", "labels and prompts", PROMPT + LABEL),
    ("out", "where pictures go", PLACE),
    ("run", "the run folder", PLACE),
    ("n", "how many", COUNT),
    ("seed", "the first seed", ("seeds", "random-seed", "manual-seed")),
    ("seeds", "the first and the last seed", ("seed", "random-seed")),
    ("guidance", "the scale of guidance", ("scale", "cfg", "cfg-scale", "guidance-scale", "w")),
    ("solver", "how the equation is solved", ("sampler", "scheduler", "method")),
    ("steps", "updates", ("epochs", "iterations", "iters", "max-steps", "num-steps", "num-inference-steps")),
    ("budget", "the time to train", ("time", "minutes", "hours", "duration")),
    (
        "extend",
        "going on with a finished run (the same command resumes one that was stopped)",
        ("continue", "more", "longer", "resume", "finetune", "fine-tune"),
    ),
    ("batch", "images of an update", ("batch-size", "bs", "batchsize")),
    ("optimiser.lr", "the learning rate", ("learning-rate", "rate")),
    ("optimiser.kind", "the optimiser", ("optimizer",)),
    ("data.size", "the side of the images", ("resolution", "image-size", "img-size")),
    ("size", "which of the shapes", ("resolution", "image-size", "width", "height", "aspect-ratio")),
    ("data.buckets", "buckets by shape", ("enable-bucket", "bucketing", "aspect-ratio-buckets", "aspect-ratio")),
    ("fresh", "a run anew", ("restart", "overwrite", "force", "new")),
    ("network.kind", "the network", ("model", "arch", "architecture")),
    ("strength", "how much may change", ("noise", "denoise", "denoising-strength", "amount")),
    ("precision", "of the numbers", ("amp", "fp16", "dtype", "half", "bf16", "mixed-precision")),
    (
        "guide",
        "guides by name",
        ("guides", "rescale", "guidance-rescale", "apg", "temperature", "interval"),
    ),
    ("noise-scale", "the noise of stochastic solvers", ("s-noise", "noise", "churn", "eta")),
    ("json", "what a program reads", ("log", "format", "output-format", "jsonl")),
    ("sheets", "sheets of samples", ("grids", "sample-grids")),
    ("condition-dropout", "the share of conditions hidden", ("label-dropout", "p-uncond", "uncond-prob")),
    ("beside", "pictures to hear", ("condition", "control", "conditioning", "image", "picture")),
]
"""Options, what they are for, and the names by which others know them; the first that a verb has is offered."""


def check_options(arguments: Sequence[str]) -> None:
    """Raise UsageError for a verb or an option that the verb in `arguments` does not have, with the one meant."""
    called, kind = chosen(arguments)
    if kind is None:
        check_verb(*arguments[:2])
        return
    known = list(options(kind))
    for match in filter(None, map(OPTION.fullmatch, arguments)):
        word, name = match[0], (match["long"] or match["short"]).replace("_", "-")
        if name in ("help", "h") or (match["long"] and name in known):
            continue
        if os.path.exists(word):
            raise UsageError(f"{word} is read as an option, for it begins with a dash", f"write the place as ./{word}")
        raise UsageError(f"ebb {called} has no option {word.partition('=')[0]}", hint(name, called, known))


def check_verb(verb: str, word: str = "--help") -> None:
    """Raise UsageError for a word that is no verb inside `verb`."""
    inner = [name.removeprefix(f"{verb} ") for name, _ in within(verb)]
    if not word.startswith("-") and word not in inner:
        raise UsageError(f"ebb {verb} has no verb {word}", nearest(word, inner))


OPTION = re.compile(r"--(?P<long>[A-Za-z][\w.-]*)(=.*)?|-(?P<short>[A-Za-z]\S*)", re.DOTALL)
"""A word that is read as an option; with a digit after the dash it is a number."""


FEW = 12
"""Options that an answer lists; of more it names the help."""


def hint(name: str, called: str, known: Sequence[str]) -> str:
    """What to write instead: the option that does what is meant, the verbs that have it, or the nearest option."""
    everything = f"all: {', '.join(f'--{option}' for option in known)}"
    everything = everything if 0 < len(known) <= FEW else f"all: ebb {called} --help"
    if found := instead(name, known):
        return f"did you mean {found}? {everything}"
    if others := [f"ebb {other}" for other, kind in every() if name in options(kind)]:
        return f"it is one of {', '.join(others[:3])}; {everything}"
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"did you mean --{close[0]}? {everything}" if close else everything


def instead(name: str, known: Sequence[str]) -> str:
    """The option among those `known` that does what `name` would; "" where there is none."""
    if name in known:  # it was written with one dash
        return f"--{name}"
    for option, what, names in MEANT:
        if option in known and name in names:
            return f"--{option}, for {what}"
    return " or ".join(f"--{option}" for option in known if option.rpartition(".")[2] == name)


def chosen(arguments: Sequence[str]) -> tuple[str, type | None]:
    """The verb that the first words name, "edit vary", and its class; None where they name none."""
    known = dict(within(arguments[0]))
    for count in (2, 1):
        if (name := " ".join(arguments[:count])) in known:
            return name, known[name]
    return "", None


def every() -> Iterator[tuple[str, type]]:
    """Every verb by its words, with its class."""
    for verb in VERBS:
        yield from within(verb)


def within(verb: str) -> Iterator[tuple[str, type]]:
    """A verb of the root, or those inside it, by their words, with their classes."""
    kind = class_of(verb)
    inner = get_type_hints(kind, include_extras=True).get("verb")
    if inner is None:
        yield verb, kind
        return
    for member in get_args(get_args(inner)[0]):
        one, config = get_args(member)[:2]
        yield f"{verb} {config.name}", one


def class_of(verb: str) -> type:
    """The class of a verb of the root; its module is imported."""
    module, _, name = VERBS[verb].rpartition(".")
    return cast(type, getattr(import_module(module), name))


def options(kind: type, above: str = "") -> Iterator[str]:
    """The names of the options of a verb, or of a part of them: "seed", "network.width", "no-fresh"."""
    for name, hinted in _fields(kind).items():
        bare, about = hinted, tuple[Any, ...]()
        while get_origin(bare) is Annotated:
            bare, *more = get_args(bare)
            about += tuple(more)
        if POSITIONAL in about:
            continue
        named = next((one.name for one in about if getattr(one, "name", None) is not None), name)
        if dataclasses.is_dataclass(bare) or hasattr(bare, MODEL):
            yield from options(bare, f"{above}{named}." if named else above)
            continue
        yield above + named.replace("_", "-")
        if bare is bool:
            yield f"{above}no-{named.replace('_', '-')}"


POSITIONAL = get_args(tyro.conf.Positional[str])[1]
"""What marks an argument without a name."""


MODEL = "model_fields"
"""What a pydantic model has, which is not imported for the verbs without one."""


def _fields(kind: type) -> Mapping[str, Any]:
    hints = get_type_hints(kind, include_extras=True)
    names = getattr(kind, MODEL, None) or [field.name for field in dataclasses.fields(cast(Any, kind))]
    return {name: hints[name] for name in names}
