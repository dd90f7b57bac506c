"""The command line's verbs as functions."""

import pytest
import torch

import ebb
from ebb.errors import UsageError
from ebb.verbs import edit

from .toys import trained, write


def test_edit_is_an_editor_with_a_runs_model_towards_a_text(tmp_path):
    trained(write(tmp_path / "data"), tmp_path / "run", steps=1)
    editor, x0 = edit(tmp_path / "run", "a bright sky"), torch.zeros(1, 1, 8, 8)
    assert editor.label == "a bright sky"
    assert torch.equal(editor.strength(x0, 0.0), x0)
    sampled = ebb.load(tmp_path / "run").sample(1, text="a bright sky")
    torch.testing.assert_close(editor.strength(x0, 1.0), sampled, rtol=0, atol=1e-6)
    with pytest.raises(UsageError, match="holds no checkpoint"):
        edit(tmp_path / "data")
