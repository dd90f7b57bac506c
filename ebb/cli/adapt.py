"""`ebb adapt`."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console

from ebb.cli.length import one_length
from ebb.cli.output import echo, shown
from ebb.errors import UsageError, nearest
from ebb.recipe.groups import BareRecipe, ControlRecipe, LowRankRecipe
from ebb.recipe.recipe import AdapterRecipe
from ebb.terminal import command


@dataclass(frozen=True)
class Adapt:
    """Teach a finished run something new, in a few numbers beside its own; the same command again resumes."""

    base: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    """the run of a diffusion model, which stays as it is; all other options are those of: ebb train DATA --kind adapter
    --adapts RUN"""
    data: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="DATA")]
    """what it is taught, read as the run's own data was: some pictures, with labels of the run, with new ones, or none
    """
    run: Path | None = None
    """where to keep the new run; without it RUN-DATA"""
    label: str | None = None
    """what pictures without a label are: a label of the run, or a new one; without it the name of the data"""
    control: str | None = None
    """make it follow a map in place of changing its weights: edges, soft_edges, palette, low_resolution, mask or grey,
    as found in the pictures themselves, or a field of metadata.jsonl that names a picture beside each"""
    concept: str | None = None
    """a new word, such as sks, whose vector alone is learnt; with --rank or --form beside changes of the weights"""
    reference: bool = False
    """learn to be asked by a picture beside a text: each is drawn with itself as its reference"""
    drift: float | None = None
    """how far answers for what is not taught may move, as a share of their size, before training stops; without it
    0.1 with a new word, and it is measured alone"""
    form: str | None = None
    """of the change of each layer: lora, or dora, which has a length for each output besides; of a control: controlnet,
    a copy of the encoder, or two_way, a narrow one; without it the first of these"""
    rank: int | None = None
    """rank of the change of every layer; without it layers and rank are chosen by the gradient of a first batch"""
    reach: Literal["new", "all"] | None = None
    """of changes of the weights: new, samples asked for by a new label or word alone, so that all others stay to the
    bit; all, every sample; without it new where all pictures have new labels and no --prior is asked for"""
    prior: int | None = None
    """samples of the run itself that are learnt besides, so that the rest stays as it is; 0: none; without it 512, and
    none where it stays anyway"""
    budget: str | None = None
    """wall-clock time, e.g. 90s; without it by the data and the machine"""
    steps: int | None = None
    """updates to make, in place of a budget"""
    batch: int | None = None
    """examples per batch"""
    lr: float | None = None
    """peak learning rate"""
    seed: int = 0
    """seed of the first weights, the data order and the noise"""
    extend: str | None = None
    """go on with a finished one for this long (5m), or for so many updates (500); what is better is kept"""
    fresh: bool = False
    """start anew, replacing a run of the same name"""
    json: bool = False
    """every event as a line of JSON on stdout, and nothing else there: words go to stderr"""

    def __call__(self, console: Console, given: set[str]) -> None:
        """Adapt, and say how to sample."""
        began = time.perf_counter()
        one_length(given)
        from ebb.evaluate.effects import effect_on
        from ebb.run.adapting import beside_base, size_of
        from ebb.run.train import train

        asked = AdapterRecipe(
            adapts=str(self.base), label=self.label, prior=self.prior, budget=self.budget, steps=self.steps,
            batch=self.batch, seed=self.seed, concept=self.concept, reference=self.reference, drift=self.drift,
            addition=self.addition(),
        )  # fmt: skip
        if self.lr is not None:
            asked = asked.model_copy(update={"optimiser": asked.optimiser.model_copy(update={"lr": self.lr})})
        place, longer = self.run or beside_base(self.base, self.data), self.extend
        if self.run is None and (control := asked.control()) is not None:
            place = self.base.with_name(f"{self.base.name}-{control.name}")
        work = train(self.data, asked, run=place, fresh=self.fresh, began=began, extend=longer)
        folder = shown(work, console, self.json)
        echo(console, f"size     {size_of(folder)}")
        echo(console, f"effect   {shown(effect_on(folder), console, self.json)}")
        echo(console, f"report   {folder / 'report.html'}")
        words = [self.base, "--adapter", folder]
        words += [] if self.concept is None else ["--text", f"a {self.concept}"]
        words += ["--reference", "PICTURE"] if self.reference else []
        echo(console, f"sample   {command('sample', *words, '--out', 'samples.png')}")
        echo(console, f"measure  {command('evaluate', folder)}")

    def addition(self) -> LowRankRecipe | BareRecipe | ControlRecipe:
        """What is put on: changes of the weights, unless it is a control, or a word or what hears a reference alone."""
        if self.control is not None:
            return self.controlled(self.control)
        if (self.concept or self.reference) and (self.form, self.rank, self.reach) == (None, None, None):
            return BareRecipe()
        if self.form not in (None, "lora", "dora"):
            raise UsageError(f"a change of weights is lora or dora, got {self.form}", "or name a --control")
        return LowRankRecipe(form="dora" if self.form == "dora" else "lora", rank=self.rank, reach=self.reach)

    def controlled(self, control: str) -> ControlRecipe:
        """A control by an extractor, or by a field of metadata.jsonl."""
        for option in ("rank", "reach"):
            if getattr(self, option) is not None:
                raise UsageError(
                    f"--{option} is of a change of weights, and --control is none", "leave one of them out"
                )
        from ebb.data.extractors import EXTRACTORS
        from ebb.data.tables import METADATA

        form, name, data = self.form or "controlnet", control.partition("(")[0], Path(self.data)
        if name in EXTRACTORS:
            return ControlRecipe(form=form, extractor=control)
        if not data.exists() or data.is_file() or not [*data.rglob(METADATA)]:
            raise UsageError(
                f"there is no extractor {name!r}, and {data} has no {METADATA} whose field it could be",
                nearest(name, EXTRACTORS),
            )
        return ControlRecipe(form=form, field=control)
