"""docs/terms.md: every part that can be named is listed, and the words by which the field knows them are there."""

import ast
import re
from pathlib import Path

import pytest

from ebb.process.denoiser import CLOCKS
from ebb.process.path import PATHS
from ebb.process.predict import PREDICTIONS
from ebb.process.times import DENSITIES, GRIDS
from ebb.train.objectives.coupling import COUPLINGS
from ebb.train.objectives.weights import WEIGHTS

from .test_house import VERBS

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "terms.md").read_text(encoding="utf8")
LISTS = {
    "Paths": PATHS,
    "Predictions": PREDICTIONS,
    "Loss weights": WEIGHTS,
    "Densities of training times": DENSITIES,
    "Grids of sampling times": GRIDS,
    "Clocks": CLOCKS,
    "Couplings": COUPLINGS,
}


def listed(page, heading):
    """The names in the first column of a section's table, each with a cell for every head."""
    section = re.search(rf"^## {heading}\n(.*?)(?=^## |\Z)", page, re.DOTALL | re.MULTILINE)[1]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if line[:1] == "|"]
    assert all(len(row) == len(rows[0]) and all(row) for row in rows), heading
    return [row[0].strip("`") for row in rows[2:]]


@pytest.mark.parametrize("heading", LISTS)
def test_the_lists_are_those_of_the_registries(heading):
    assert listed(PAGE, heading) == list(LISTS[heading])


def test_a_part_that_is_not_listed_is_missed():
    """A mutant of the page, without one row."""
    cut = "\n".join(line for line in PAGE.splitlines() if not line.startswith("| `vlb`"))
    assert set(WEIGHTS) - set(listed(cut, "Loss weights")) == {"vlb"}


WORDS = """noise schedule; timestep; scheduler; FID; KID; Inception score; L_simple; ELBO; Tweedie; score matching; AdaGN; adaLN;
cross-attention; mode collapse; posterior collapse; reparameterisation; free bits; img2img; inpainting; mixed precision;
checkpointing; ControlNet; EMA; CFG; negative prompt; classifier-free guidance; flow matching; rectified flow; v-prediction;
zero terminal SNR; SNR; NFE; DDIM inversion; latent diffusion; σ² = β; β̃; learned variance; temperature; memorisation"""


@pytest.mark.parametrize("word", [word.strip() for word in WORDS.split(";")])
def test_a_search_for_the_fields_word_finds_it(word):
    terms = PAGE.partition("## One word, one thing")[0]
    assert any(word in line.split("|")[1] for line in terms.splitlines() if line.startswith("| ")), word


def verbs_with_steps(page):
    """The verbs whose `--steps` are updates, and those whose are a solver's, as the page tells them apart."""
    means = next(line for line in page.splitlines() if line.startswith("| steps |")).split("|")[2]
    return [set(re.findall(r"`(?:ebb )?(\w+)`", part)) for part in means.split(": ")[:2]]


def test_every_verb_that_has_steps_is_told_apart():
    """Those that take a batch too make updates; a mutant of the page without one verb is caught."""
    some = {name: options for name, options in VERBS.items() if "steps" in options}
    updates = {name for name, options in some.items() if "batch" in options}
    solver = {name.split()[0] for name in some} - updates
    assert verbs_with_steps(PAGE) == [updates, solver]
    assert verbs_with_steps(PAGE.replace("`adapt` and `distil`", "`adapt`")) != [updates, solver]


def test_the_help_says_which_steps():
    sources = [*(ROOT / "ebb" / "cli").glob("*.py"), ROOT / "ebb" / "recipe" / "recipe.py"]
    field = re.compile(r'^    steps: [^\n]*\n    """(.*?)"""', re.MULTILINE | re.DOTALL)
    helps = [text for file in sources for text in field.findall(file.read_text(encoding="utf8"))]
    assert len(helps) == 6
    assert all(("update" in text) != ("solver" in text) for text in helps), helps


def words_of(file):
    """The texts in a source file, pieces of f-strings among them."""
    nodes = ast.walk(ast.parse(file.read_text(encoding="utf8")))
    return [node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)]


def test_the_command_line_calls_samples_side_by_side_a_sheet():
    """A grid is of times: nothing that the command line says has another, but for the option by its old names."""
    said = {
        text
        for file in (ROOT / "ebb" / "cli").glob("*.py")
        for text in words_of(file)
        if re.search(r"\bgrids?\b", text)
    }
    assert said <= {"grids", "sample-grids"}


def test_the_map_of_indices():
    """n = 1000·t, and index 0 of code that counts from 0 is n = 1: what `leading` of Ho et al. visits last is t = 1/1000."""
    times = GRIDS["leading"](PATHS["ddpm_linear"], 1000)
    assert (times[:-1] * 1000).round().tolist() == list(range(1000, 0, -1))
