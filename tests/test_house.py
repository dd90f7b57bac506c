"""The house keeps its own rules: who imports whom, which words stay out, how long files get, which options exist."""

import ast
import functools
import importlib
import inspect
import re
import runpy
import subprocess
import sys
import tomllib
from pathlib import Path

import mypy.api
import pytest
import torch
from jaxtyping import TypeCheckError

import ebb
from ebb.cli import main
from ebb.cli.form import Form
from ebb.cli.parse import verb as verb_of
from ebb.recipe.document import options
from ebb.recipe.recipe import flat

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "ebb").rglob("*.py"))

RANK = {
    "errors": 0, "terminal": 0, "threads": 0,
    "events": 1, "shapes": 1, "machine": 1, "recipe": 1,
    "process": 2, "networks": 2, "store": 2,
    "data": 3, "sample": 3, "guide": 3, "adapt": 3,
    "encode": 4,
    "train": 5, "testing": 5,
    "judge": 6,
    "system": 7,
    "understand": 8, "edit": 8, "exchange": 8, "policy": 8,
    "doctor": 9,
    "report": 10,
    "evaluate": 11, "run": 11,
    "verbs": 12, "service": 12, "studio": 13, "cli": 14,
}  # fmt: skip
"""Lower ranks know nothing of higher ones; rooms of one rank do not know each other."""


def module(path):
    """`ebb/data/scan.py` → "data.scan"; a room's own `__init__` has the room's name."""
    return path.relative_to(ROOT / "ebb").with_suffix("").as_posix().replace("/", ".").removesuffix(".__init__")


MODULES = {module(path): path for path in FILES}


@functools.cache
def nodes(path):
    """Every node of a file's syntax tree; the rules below read each file once."""
    return tuple(ast.walk(ast.parse(path.read_text())))


def place(path):
    """ebb/data/scan.py"""
    return path.relative_to(ROOT).as_posix()


def room(path):
    return module(path).split(".")[0]


@functools.cache
def imports(path):
    """Every module of ebb that a file imports, also inside functions."""
    found = set()
    for node in nodes(path):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "ebb":
            home = node.module.removeprefix("ebb").removeprefix(".")
            inside = {f"{home}.{alias.name}".removeprefix(".") for alias in node.names}
            found |= {name if name in MODULES else home for name in inside}
        elif isinstance(node, ast.Import):
            found |= {alias.name[4:] for alias in node.names if alias.name.startswith("ebb.")}
    return frozenset(found)


def test_imports_flow_one_way():
    climbs = {
        (place(path), other)
        for path in FILES
        for other in {name.split(".")[0] for name in imports(path)} - {room(path)}
        if room(path) == "__init__" or RANK[other] >= RANK[room(path)]
    }
    assert climbs == set()


def circle(imported):
    """Modules that import each other around, among `imported`: {module: what it imports}; none where each has a rank."""
    left = dict(imported)
    while free := [name for name, others in left.items() if not others & left.keys()]:
        for name in free:
            del left[name]
    return set(left)


def test_modules_have_ranks_too():
    """Inside a room as well nothing is imported by what it imports, so that each file can be read after those below."""
    assert circle({name: imports(path) - {name} for name, path in MODULES.items()}) == set()
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": set()}) == {"a", "b", "c"}


def test_training_knows_nothing_that_measures_a_run():
    """Networks that look and the page that is drawn at the end are no figures of a run; `evaluate` and `doctor` are."""
    for path in FILES:
        if room(path) in ("run", "train"):
            assert not {name.split(".")[0] for name in imports(path)} & {"evaluate", "doctor"}, path


def test_nothing_below_the_command_line_prints():
    """What there is to say is an event or an error; who asked for the work decides where it is shown."""
    for path in FILES:
        if room(path) != "cli":
            calls = {ast.unparse(node.func) for node in nodes(path) if isinstance(node, ast.Call)}
            assert not calls & {"print", "sys.stdout.write", "sys.stderr.write"}, path
            assert not re.search(r"^\s*(from|import) rich\b", path.read_text(), re.MULTILINE), path


def test_a_module_is_named_once():
    """One module for a name; the command line's are named after their verbs."""
    names = [path.stem for path in FILES if path.stem != "__init__" and room(path) != "cli"]
    assert sorted(names) == sorted(set(names))


def test_a_class_is_named_once():
    """A public name is one thing in the whole package."""
    classes = [
        node.name
        for path in FILES
        for node in nodes(path)[0].body
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    ]
    assert sorted(classes) == sorted(set(classes))


RIDDLES = {"told", "kept", "heard", "said", "found", "heeded", "unheard", "obeyed"}
"""Words that carry no type and no term of the field: no names of things."""

CLEAN = {
    "cli", "data", "doctor", "edit", "guide", "judge", "recipe", "report", "run", "sample", "store", "system", "testing",
    "train", "understand", "verbs",
}  # fmt: skip
"""Rooms whose functions, classes, fields and parameters are named without riddles; the others are on their way."""


def names_of_things(path):
    """(line, name) of every function, class, field, parameter and constant of a file."""
    for node in nodes(path):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.lineno, node.name
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg
        if isinstance(node, ast.ClassDef | ast.Module):
            targets = [t for n in node.body if isinstance(n, ast.Assign | ast.AnnAssign) for t in targets_of(n)]
            yield from ((name.lineno, name.id) for name in targets)


def targets_of(node):
    """The names that an assignment gives."""
    every = [node.target] if isinstance(node, ast.AnnAssign) else node.targets
    return [name for target in every for name in ast.walk(target) if isinstance(name, ast.Name)]


def test_names_of_things_are_no_riddles():
    riddles = [
        f"{place(path)}:{line}: {name}"
        for path in FILES
        if room(path) in CLEAN
        for line, name in names_of_things(path)
        if RIDDLES & set(re.findall(r"[a-z]+", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()))
    ]
    assert [name for name in riddles if not name.endswith(" found_inf")] == [], "found_inf is torch's"


def open_ended(path):
    """Functions that take options by any name and value: a misspelt one would be found out late, or never."""
    return [
        node.name
        for node in nodes(path)
        if isinstance(node, ast.FunctionDef)
        and node.args.kwarg
        and ast.unparse(node.args.kwarg.annotation or ast.Name("None")) == "Any"
    ]


def test_options_have_names_and_types():
    """Nobody passes on what he does not know. What torch calls has torch's signature, a run.yaml says anything, and a
    recipe is of the family that its options name, which refuses the others by name."""
    found = {(module(path), name) for path in FILES for name in open_ended(path)}
    assert found == {
        ("understand.cost", "attention_flop"),
        ("understand.probe", "see"),
        ("recipe.document", "to_yaml"),
        ("recipe.recipe", "__new__"),
    }


MOST_ARGUMENTS = 6
"""More is an object that wants a name. The fields of a frozen object are a document and not counted, nor are those of a
`TypedDict` by keyword."""

MORE_ARGUMENTS = {
    "step": "the contract of a solver: whom it asks, from where to where, what it remembers, its noise (`Solver.step`)",
    "UNet.__init__": "a document: its checkpoint spells it by these names",
    "DiT.__init__": "as UNet",
    "MMDiT.__init__": "as UNet",
    "KL.__init__": "as UNet",
    "VQ.__init__": "as UNet",
    "probabilities": "torch's, in whose place it stands",
}
"""Functions that may have more, each with its reason."""


def signatures(tree):
    """(name, arguments without self) of every function among the nodes of a module; of __init__ with its class."""
    owners = {id(node): owner.name for owner in tree if isinstance(owner, ast.ClassDef) for node in owner.body}
    for node in tree:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            each = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs, node.args.vararg]
            count = sum(arg is not None and arg.arg not in ("self", "cls") for arg in each)
            yield f"{owners[id(node)]}.__init__" if node.name == "__init__" else node.name, count


def test_what_has_more_than_six_arguments_has_a_reason():
    found = {name for path in FILES for name, count in signatures(nodes(path)) if count > MOST_ARGUMENTS}
    assert found == set(MORE_ARGUMENTS)
    seven = ast.parse("class A:\n def __init__(self, a, b, c, d, e, *f, g, **h): ...")
    assert list(signatures(tuple(ast.walk(seven)))) == [("A.__init__", 7)]


def names_and_words(path):
    return set(re.findall(r"[a-z]+", path.read_text().lower()))


CORE = [p for p in FILES if room(p) in ("process", "sample", "guide") or p.parts[-2:] == ("train", "loop.py")]


def test_the_core_does_not_know_what_an_image_is():
    forbidden = {"pixel", "pixels", "height", "token", "tokens", "picture", "rgb", "channels"}
    assert {place(path): words for path in CORE if (words := names_and_words(path) & forbidden)} == {}


ABOVE = [p for p in FILES if room(p) in ("run", "system", "store", "recipe")]

OF_IMAGES = {
    "recipe.groups": "the settings of images: side, channels, mirroring, patches",
    "recipe.recipe": "the fields of metadata.jsonl that name pictures beside an image",
    "recipe.starting": "starting points by the size of images, and what is refused where there are none",
    "run.adapting": "a reference is a picture",
    "store.png": "the formats of pictures, and what ebb writes into them",
    "system.modalities": "the table of modalities, of which images are one",
    "system.taught": "a picture is its own reference",
}
"""Files above the core that are of images in part, and why."""

BEFORE = r"""ebb\.data\.(images|pictures)|"(images|images_per_second|image|picture)"|'images'"""
"""The modules of a modality, and words of files: fields of log.jsonl and run.yaml, kinds in a contract."""


def test_what_runs_and_stores_does_not_know_what_an_image_is():
    """What examples are called is asked of their modality; a file that needs no exception any longer has none."""
    words = {"image", "images", "picture", "pictures", "pixel", "pixels"}
    texts = {path: re.sub(BEFORE, "", path.read_text()).lower() for path in ABOVE}
    assert {module(path) for path, text in texts.items() if words & set(re.findall("[a-z]+", text))} == set(OF_IMAGES)


def test_files_and_functions_stay_short():
    long = {place(path) for path in FILES if len(path.read_text().splitlines()) > 400}
    long |= {
        f"{place(path)}: {node.name}"
        for path in FILES
        for node in nodes(path)
        if isinstance(node, ast.FunctionDef) and node.end_lineno - node.lineno >= 50
    }
    assert long == set()


RUNS_CODE = {"pickle", "shelve", "marshal", "dill", "joblib", "urllib", "requests", "socket"}


def forbidden_in(node):
    """Whether a node asserts, imports what loads code or reaches a network, or runs code from a file."""
    if isinstance(node, ast.Import | ast.ImportFrom):
        names = {a.name.split(".")[0] for a in node.names} | {(getattr(node, "module", "") or "").split(".")[0]}
        return bool(names & RUNS_CODE)
    calls = isinstance(node, ast.Call) and ast.unparse(node.func)
    return isinstance(node, ast.Assert) or calls in ("torch.load", "eval", "exec", "torch.save", "np.memmap.dump")


def test_nothing_runs_code_from_a_file_and_nothing_asserts():
    assert [f"{place(path)}:{node.lineno}" for path in FILES for node in nodes(path) if forbidden_in(node)] == []
    for mutant in ("import pickle", "from urllib import request", "torch.load(x)", "assert x"):
        assert any(map(forbidden_in, ast.walk(ast.parse(mutant)))), mutant


def test_shapes_are_enforced_while_testing():
    """A [b, 3] and a [b, 4] do not mix, whatever broadcasting would say, and a time is [b]."""
    x, t = torch.zeros(2, 3), torch.full((2,), 0.5)
    for wrong in ((x, torch.zeros(2, 4), t), (x, x[:1], t), (x, x, t[:, None])):
        with pytest.raises(TypeCheckError):
            ebb.Linear().mix(*wrong)
    with pytest.raises(TypeCheckError):
        ebb.MLP(3)(x, torch.zeros(2, 1), {})


def test_shape_annotations_keep_their_quotes():
    for path in FILES:
        assert not re.search(r"\b(Float|Int)\[[A-Za-z.]+, [^\"\]]+\]", path.read_text()), path


def test_there_is_no_drawer():
    drawers = {"utils", "util", "common", "core", "misc", "helpers"}
    assert ({p.stem for p in FILES} | {p.parent.name for p in FILES}) & drawers == set()


def test_no_batchnorm_anywhere():
    for path in FILES:
        assert "nn.BatchNorm" not in path.read_text()


def test_every_exported_name_exists_and_has_a_docstring():
    for name in ebb.__all__:
        member = getattr(ebb, name)
        assert getattr(member, "__doc__", None) or isinstance(member, dict), name
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = ebb.nothing
    assert not set(ebb.__all__) & {room(path) for path in FILES}, "a room would hide the name"
    assert len(ebb.__all__) < 110, "what is less general is imported from its room"


def run_by(program):
    """What a process of its own prints."""
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout


def test_the_stub_is_what_make_stub_writes():
    assert (ROOT / "ebb" / "__init__.pyi").read_text() == runpy.run_path(str(ROOT / "docs" / "stub.py"))["stub"]()
    data = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["ebb"]
    assert {"py.typed", "__init__.pyi"} <= set(data)


def test_a_users_program_is_typed(tmp_path):
    """A name has its own type, not Any, and one that does not exist is found; verbs are functions beside their rooms."""
    program = tmp_path / "program.py"
    program.write_text(
        "import ebb\nimport ebb.train.loop\nfrom ebb.verbs import train\n"
        "reveal_type(ebb.Linear().alpha)\nreveal_type(ebb.verbs.edit)\nreveal_type(train)\nebb.Linaer\nebb.Linear().alhpa\n"
    )
    out, _, _ = mypy.api.run(["--cache-dir", str(ROOT / ".mypy_cache"), "--strict", "--no-pretty", str(program)])
    lines = [line.partition("program.py:")[2] for line in out.splitlines()]
    assert re.match(r"4: note: .*def \(t: .*Tensor\) -> .*Tensor", lines[0])
    assert re.match(r"5: note: .*-> ebb\.edit\.editor\.Editor", lines[1])
    assert re.match(r"6: note: .*def \(data: str \| .*Path", lines[2])
    assert re.match(r'7: error: Module has no attribute "Linaer"', lines[3])
    assert re.match(r'8: error: "Linear" has no attribute "alhpa"', lines[4])
    assert len(lines) == 6


def test_verbs_are_functions_though_rooms_have_their_names():
    """Every room is imported by now: `ebb.train` is one, and `ebb.verbs.train` is still the function."""
    assert inspect.ismodule(ebb.train)
    assert all(map(inspect.isfunction, (ebb.verbs.train, ebb.verbs.evaluate, ebb.verbs.edit, ebb.verbs.diagnose)))


def test_importing_the_package_imports_nothing_that_takes_time():
    assert (
        run_by("import sys, ebb; print(sorted({'torch', 'numpy', 'pydantic', 'rich', 'tyro'} & sys.modules.keys()))")
        == "[]\n"
    )


OPTIONS = {
    "budget", "steps", "batch", "seed", "path", "prediction", "times", "coupling", "weight", "objective", "clock", "sigma_data",
    "condition_dropout", "precision", "engine", "sheets", "ema_halflife", "data.size", "data.channels", "data.flip", "data.buckets", "data.window",
    "kind", "autoencoder", "reflow", "pairs", "likelihood", "teacher", "adapter", "rank", "adapts", "addition.kind", "addition.form", "addition.rank", "addition.extractor", "addition.field", "addition.layers", "addition.reach", "label", "concept", "reference", "drift", "prior", "method", "guidances", "numbers", "beside", "text.captions", "text.vocabulary", "text.length", "text.concepts", "text.encoders",
    "autoencoding.kind", "autoencoding.factor", "autoencoding.latent", "autoencoding.distance", "autoencoding.residual", "autoencoding.width",
    "autoencoding.beta", "autoencoding.free_nats", "autoencoding.warmup", "autoencoding.codes", "autoencoding.perceptual", "autoencoding.lpips",
    "autoencoding.adversarial", "network.kind", "network.cross", "network.waves", "network.width", "network.depth", "network.patch", "network.multipliers", "network.attention", "network.positions",
    "optimiser.kind", "optimiser.lr", "optimiser.warmup", "optimiser.decay", "optimiser.schedule", "optimiser.search", "optimiser.weight_decay", "optimiser.clip", "optimiser.accumulate",
    "sample.solver", "sample.grid", "sample.steps", "sample.guidance", "sample.guides", "sample.noise_scale", "sample.precision",
}  # fmt: skip
HOW = {"steps", "guidance", "guide", "noise_scale", "solver", "grid", "precision"}
EDIT = HOW | {"label", "text", "out"}
VERSIONS = {"n", "seed"}
VERBS = {
    "train": {"run", "fresh", "base", "extend", "dry_run", "json"} | OPTIONS,
    "distil": {"run", "as", "rank", "data", "extend", "method", "budget", "steps", "batch", "seed", "fresh", "json"},
    "adapt": {
        "run", "label", "control", "concept", "reference", "drift", "form", "rank", "reach", "prior", "budget", "steps", "batch", "lr", "seed", "extend", "fresh", "json",
    },
    "sample": {"n", "label", "adapter", "reference", "control", "control_scale", "text", "numbers", "beside", "together", "regions", "seed", "out", "by", "size", "from", "compile", "explain"} | HOW,
    "evaluate": {
        "n", "fresh", "seed", "features", "likelihood", "weights", "against", "data", "json",
    } | HOW,
    "show": set(),
    "edit strength": EDIT | VERSIONS | {"strength"},
    "edit vary": EDIT | VERSIONS | {"strength"},
    "edit inpaint": EDIT | VERSIONS | {"mask", "repeats"},
    "edit outpaint": EDIT | VERSIONS | {"border", "repeats"},
    "edit interpolate": HOW | {"seeds", "labels", "n", "out"},
    "edit translate": EDIT | {"source"},
    "edit shift": EDIT | {"plus", "minus", "scale"},
    "edit upscale": EDIT | VERSIONS | {"error"},
    "edit deblur": EDIT | VERSIONS | {"sigma", "error"},
    "doctor": {"data", "out", "json"},
    "sweep": {"solvers", "references", "steps", "guidance", "n", "seed", "search", "keep", "precision", "features", "data", "json"},
    "report": {"text"},
    "adapter show": {"run", "scale", "json"},
    "adapter merge": {"out", "precision"},
    "adapter extract": {"rank", "out", "to"},
    "adapter join": {"out", "rank", "to", "run"},
    "adapter convert": {"to", "run", "scale"},
    "adapter resize": {"rank", "to"},
    "export": {"licence", "without", "json"},
    "tidy": {"remove", "json"},
    "config show": {"json"},
    "config validate": set(),
    "config diff": {"json"},
}  # fmt: skip


@pytest.mark.parametrize(
    "verb", [x if x in ("train", "edit vary") else pytest.param(x, marks=pytest.mark.full) for x in VERBS]
)
def test_the_command_line_has_these_options_and_no_other(verb, monkeypatch, capsys):
    """A new option is a decision: it is made here too. What help shows; what is taken is held by cli/test_options.py."""
    monkeypatch.setenv("COLUMNS", "100")
    with pytest.raises(SystemExit):
        main([*verb.split(), "--help"])
    out = capsys.readouterr().out
    found = {name.replace("-", "_") for name in re.findall(r"^[│ ] (?:-h, )?--([a-z][a-z0-9.-]*)", out, re.MULTILINE)}
    assert found - {"help"} == VERBS[verb]


def test_every_option_of_train_is_a_field_of_the_recipe():
    assert set(options()) == OPTIONS == set(flat(Form().model_dump()))


def test_base_dependencies_stay_few():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = {re.match(r"[a-z]+", line)[0] for line in project["dependencies"]}
    assert names == {"torch", "numpy", "pillow", "safetensors", "pydantic", "pyyaml", "tyro", "rich"}


def test_every_dependency_is_pinned():
    pins = {
        line.split("==")[0].lower().replace("_", "-")
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if "==" in line
    }
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = (
        project["dependencies"] + project["optional-dependencies"]["dev"] + project["optional-dependencies"]["demo"]
    )
    assert {re.match(r"[A-Za-z-]+", line)[0].lower() for line in wanted} - {"ebb"} <= pins


PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_links_between_pages_lead_somewhere(page):
    prose = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)#]+)\)", prose):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target


def test_readme_is_read_in_five_minutes():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 120


def ebb_lines(page):
    blocks = re.findall(r"```(?:sh|bash)\n(.*?)```", page.read_text(), re.DOTALL)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [re.split("#| [>|&]", line)[0].strip() for line in lines if line.startswith("ebb ")]


def words_of(line):
    """The names of a command's options, and its verb."""
    return tuple(sorted(word.partition("=")[0] for word in line.split() if word.startswith("-"))), line.split()[1]


LINES = sorted({line for page in PAGES for line in ebb_lines(page)})
FIRST = {words_of(line): line for line in reversed(LINES)}
COMMANDS = [line if FIRST[words_of(line)] == line else pytest.param(line, marks=pytest.mark.full) for line in LINES]
"""Every command that the pages show; those that differ from another in values alone are long forms."""


@pytest.mark.parametrize("line", COMMANDS)
def test_every_command_shown_is_one_the_command_line_takes(line):
    """Parsed by the real parser; what they do on real data is tested in test_run.py."""
    assert callable(verb_of(re.sub(r"[\"']", "", line).split()[1:]))


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_python_shown_in_the_pages_is_python_and_imports(page):
    for block in re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "ebb":
                assert hasattr(ebb, node.attr), node.attr


def stands_for(name):
    """The thing that a dotted name such as ebb.guide.energy.LOUD stands for; raises where there is none."""
    for at in range(name.count(".") + 1, 0, -1):
        module = ".".join(name.split(".")[:at])
        try:
            found = importlib.import_module(module)
        except ModuleNotFoundError:
            continue
        return functools.reduce(getattr, name.split(".")[at:], found)
    raise AttributeError(name)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_every_name_that_a_page_shows_exists(page):
    """In prose and in code, as it is written: ebb.testing needs no import of its own."""
    for name in sorted(set(re.findall(r"(?<![\w./-])ebb(?:\.[a-zA-Z_]\w*)+", page.read_text()))):
        stands_for(name)


def test_rooms_are_reached_from_the_package():
    assert run_by("import ebb; print(ebb.recipe.__name__, hasattr(ebb, 'nothing'))") == "ebb.recipe False\n"


@pytest.mark.full
def test_what_rooms_hold_is_reached_from_the_package():
    program = (
        "import ebb; ebb.testing.check_path(ebb.Cosine()); print(ebb.recipe.limits.spelled(3), hasattr(ebb, 'nothing'))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("3 False\n", "")
