"""Tensors by name in a file of safetensors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor


def save_tensors(tensors: Mapping[str, Tensor], path: Path, facts: Mapping[str, str] | None = None) -> None:
    """Write tensors, and facts in the header, to a file that others can read where the umask lets them: safetensors
    itself writes for the owner alone, and a folder that is shared would not open elsewhere."""
    path.touch()
    mode = path.stat().st_mode
    whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    save_file(whole, path, metadata=None if facts is None else dict(facts))
    path.chmod(mode)
