"""An earlier average of a run's weights, beside its checkpoints: the weaker model that it can be guided by."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ebb.errors import DamagedError
from ebb.store.write import replacing

EARLIER = "earlier.safetensors"
"""The name of its file in a run folder."""


def save_earlier(folder: Path, weights: Mapping[str, Tensor], step: int) -> int:
    """Write the averaged weights after update `step`, in half precision, and give the file's size in bytes.

    Half precision moves a weight by one part in two thousand; a quarter of the updates move it by far more. Raises
    ResourceError for what the system refuses.
    """
    file = folder / EARLIER
    halves = {name: (value.half() if value.is_floating_point() else value) for name, value in weights.items()}
    with replacing(file) as partial:
        save_file({name: value.contiguous() for name, value in halves.items()}, partial, {"step": str(step)})
    return file.stat().st_size


def forget_later(folder: Path, step: int) -> None:
    """Delete what was saved after a later update than `step`, which a run has gone back to."""
    file = folder / EARLIER
    if not file.is_file():
        return
    with opened(file) as tensors:
        later = int((tensors.metadata() or {}).get("step", 0)) > step
    if later:
        file.unlink()


def read_earlier(file: Path) -> dict[str, Tensor]:
    """The weights; DamagedError for a file that holds none."""
    with opened(file) as tensors:
        return {name: tensors.get_tensor(name) for name in tensors.keys()}  # noqa: SIM118  # it is no mapping


@contextmanager
def opened(file: Path) -> Iterator[Any]:
    """The file as safetensors opens it; DamagedError for one that it cannot read."""
    try:
        with safe_open(file, "pt") as tensors:
            yield tensors
    except (OSError, SafetensorError) as error:
        raise DamagedError(f"{file} cannot be read: {error}", "delete it, and sample without auto") from error
