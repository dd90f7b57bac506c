"""Write ebb/__init__.pyi, what `import ebb` offers to type checkers, from the table in ebb/__init__.py."""

from pathlib import Path

import ebb


def stub() -> str:
    """The exported names, each imported from its home, and the modules that are reached as attributes."""
    lines = [f"from {home} import {name} as {name}" for home, names in ebb._HOMES.items() for name in names]
    modules = [f"from ebb import {name} as {name}" for name in ("testing", "verbs")]
    return "\n".join(["# written by `make stub`", *sorted(modules + lines), ""])


if __name__ == "__main__":
    Path(ebb.__file__).with_suffix(".pyi").write_text(stub())
