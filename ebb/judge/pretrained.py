"""Networks trained by others, from a weights file of the user: Inception-v3, DINOv2 and LPIPS."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from ebb.errors import DamagedError, DataError, UsageError, nearest
from ebb.judge.dino import Dino
from ebb.judge.inception import Inception
from ebb.judge.lpips import Lpips
from ebb.machine import best_device
from ebb.shapes import Float
from ebb.store.checkpoint import sha256
from ebb.store.place import expanded

KINDS = ("inception", "dino")
PART = 32
"""Images that pass at a time: the first layers of Inception hold 10 MB for each."""


class Pretrained(nn.Module):
    """`Features` by a published network, which sees 8-bit colour images as it was used on them; grey is repeated."""

    def __init__(self, name: str, network: Inception | Dino) -> None:
        super().__init__()
        self.name, self.dimension, self.network = name, network.dimension, network
        self.eval().requires_grad_(False)

    def forward(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d"]:
        """The features of images in [−1, 1], grey or colour, of any size. Raises DataError for other channels."""
        if images.shape[1] not in (1, 3):
            raise DataError(f"{self.name} sees images of 1 or 3 channels, got {images.shape[1]}")
        images = images.to(next(self.parameters()).device)
        levels = ((images.float().clamp(-1, 1) + 1) * 127.5).round().expand(-1, 3, -1, -1)
        return torch.cat([self.network(part) for part in torch.split(levels, PART)])


def pretrained(spec: str) -> Pretrained:
    """Features by "inception:FILE" or "dino:FILE", a safetensors file; "…@HEX" refuses a file of another sha256.

    `inception` takes the weights known as pt_inception-2015-12-05 (2048 features), `dino` those of a DINOv2 ViT-S, B or
    L with patches of 14, with or without registers (384, 768, 1024 features). The name ends with the first 12 digits of
    the file's sha256, since figures by different weights do not compare.

    Raises UsageError for a spec that is not understood or a file that is not there or of another format, DamagedError
    for a file that is not what it claims to be.
    """
    kind, _, rest = spec.partition(":")
    if kind not in KINDS or not rest:
        raise UsageError(f"expected inception:FILE or dino:FILE, got {spec!r}", nearest(kind, KINDS))
    pinned = re.fullmatch(r"(.+)@([0-9a-fA-F]{4,64})", rest)
    where, wanted = pinned.groups() if pinned else (rest, "")
    file = expanded(where)
    if not file.is_file():
        hint = "after the file may stand @ and the first digits of its sha256, 4 to 64 of 0…9 and a…f"
        raise UsageError(f"expected the weights of {kind} in {file}, there is no such file", hint)
    digest = sha256(file)
    if not digest.startswith(wanted.lower()):
        raise DamagedError(
            f"expected {file} with a sha256 of {wanted}…, got {digest[: max(12, len(wanted))]}…",
            f"fetch the file again, or ask for this one: {kind}:{where}@{digest[:12]}",
        )
    tensors = _read(file)
    with torch.device("meta"):  # no numbers yet: they come from the file
        network = Inception() if kind == "inception" else Dino.like(tensors)
    _fill(network, tensors, file)
    return Pretrained(f"{kind} {digest[:12]}", network).to(best_device())


def lpips(file: Path, device: torch.device) -> Lpips:
    """LPIPS by a safetensors file of its VGG-16 and weights; raises as `pretrained` does."""
    if not file.is_file():
        raise UsageError(f"expected the weights of LPIPS in {file}, there is no such file")
    with torch.device("meta"):
        network = Lpips()
    _fill(network, _read(file), file)
    return network.to(device).eval().requires_grad_(False)


def _read(file: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file."""
    try:
        return load_file(file)
    except (SafetensorError, OSError) as error:
        if file.suffix == ".safetensors":
            raise DamagedError(f"expected a safetensors file in {file}, got: {error}", "fetch it again") from error
        target = file.with_suffix(".safetensors")
        raise UsageError(
            f"expected a safetensors file, got {file}, which may hold code to run",
            'convert it once, if you trust it: python -c "import torch; from safetensors.torch import save_file; '
            f"save_file({{k: v.contiguous() for k, v in torch.load({str(file)!r}, weights_only=True).items()}},"
            f' {str(target)!r})"',
        ) from error


def _fill(network: Inception | Dino | Lpips, tensors: Mapping[str, Tensor], file: Path) -> None:
    """Give a network its numbers, in float32; raises DamagedError unless all names and shapes are its own."""
    needed = network.state_dict()
    given = {
        name: tensor.float()
        for name, tensor in tensors.items()
        if not name.startswith(network.unused) and not name.endswith(".num_batches_tracked")
    }
    for what, names in (("lacks", needed.keys() - given.keys()), ("has also", given.keys() - needed.keys())):
        if names:
            raise DamagedError(
                f"expected the {len(needed)} tensors of {type(network).__name__}, {file} {what} {len(names)},"
                f" such as {min(names)}",
                "the names are those of the published weights: pt_inception-2015-12-05, dinov2_vits14 and the like, or"
                ' lpips.LPIPS(net="vgg")',
            )
    for name, tensor in given.items():
        if tensor.shape != needed[name].shape:
            raise DamagedError(f"expected {name} of shape {[*needed[name].shape]} in {file}, got {[*tensor.shape]}")
    network.load_state_dict(given, assign=True)
