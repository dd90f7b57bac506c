"""The features of Inception-v3 and DINOv2 beside independent implementations, on random weights and images.

    python -m venv .venv-peers && .venv-peers/bin/pip install -e . jaxtyping scipy tqdm transformers==5.23.0
    .venv-peers/bin/pip install --no-deps torch-fidelity==0.4.0
    PYTHONPATH=tests/evaluate .venv-peers/bin/python bench/pretrained.py

Prints the largest difference, and the numbers that tests/evaluate/test_pretrained.py holds. torch-fidelity needs
torchvision for parts that are not used here: an empty module stands in for it.
"""

from __future__ import annotations

import importlib.machinery
import sys
import tempfile
import types
from pathlib import Path
from unittest.mock import MagicMock

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn
from weights import colours, seeded, seen_from_four_sides

from ebb.judge.dino import DEVIATION, MEAN, Dino
from ebb.judge.pretrained import pretrained

IMAGES = colours(2, 40, 56)


class Empty(types.ModuleType):
    """A module whose every member is a stand-in."""

    def __getattr__(self, name: str) -> MagicMock:
        if name.startswith("__"):
            raise AttributeError(name)
        return MagicMock()


def ours(kind: str, weights: dict[str, Tensor]) -> Tensor:
    """The features of IMAGES by ebb, with these weights."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "weights.safetensors"
        save_file(weights, file)
        return pretrained(f"{kind}:{file}")(IMAGES / 127.5 - 1)


def inception() -> tuple[Tensor, Tensor]:
    """(theirs, ours): torch-fidelity's port of TensorFlow's graph."""
    for name in ("", ".transforms", ".transforms.functional", ".datasets", ".models"):
        empty = Empty("torchvision" + name)
        empty.__spec__ = importlib.machinery.ModuleSpec(empty.__name__, None)
        empty.__path__ = []
        sys.modules[empty.__name__] = empty
    from torch_fidelity import feature_extractor_inceptionv3 as peer

    class Theirs(peer.FeatureExtractorInceptionV3):
        def load_state_dict(self, state, *rest):
            weights = seeded({k: v.shape for k, v in self.state_dict().items() if v.ndim and not k.startswith("fc")})
            return nn.Module.load_state_dict(self, weights, strict=False)

    peer.load_state_dict_from_url = lambda *_, **__: {}
    theirs = Theirs("inception-v3-compat", ["2048"])
    weights = {name: value for name, value in theirs.state_dict().items() if not name.startswith("fc")}
    return theirs(IMAGES)[0], ours("inception", weights)


WORDS = {
    "cls_token": "embeddings.cls_token",
    "mask_token": "embeddings.mask_token",
    "register_tokens": "embeddings.register_tokens",
    "pos_embed": "embeddings.position_embeddings",
    "patch_embed.proj": "embeddings.patch_embeddings.projection",
    "blocks": "encoder.layer",
    "attn.proj": "attention.o_proj",
    "ls1.gamma": "layer_scale1.lambda1",
    "ls2.gamma": "layer_scale2.lambda1",
    "norm": "layernorm",
}


def renamed(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Published names of DINOv2 as transformers' names."""
    found = {}
    for name, value in weights.items():
        begin = next((word for word in WORDS if name.startswith(word)), "")
        name = WORDS.get(begin, "") + name[len(begin) :]
        for word in ("attn.proj", "ls1.gamma", "ls2.gamma"):
            name = name.replace(word, WORDS[word])
        if "qkv" in name:
            for letter, part in zip("qkv", value.chunk(3), strict=True):
                found[name.replace("attn.qkv", f"attention.{letter}_proj")] = part
        else:
            found[name] = value
    return found


def dino() -> tuple[Tensor, Tensor]:
    """(theirs, ours): transformers' DINOv2 with registers, on images resized by Pillow."""
    from transformers import Dinov2WithRegistersConfig, Dinov2WithRegistersModel

    settings = {"num_register_tokens": 4, "image_size": 518, "patch_size": 14, "mlp_ratio": 4}
    config = Dinov2WithRegistersConfig(hidden_size=128, num_hidden_layers=2, num_attention_heads=2, **settings)
    weights = seeded({name: value.shape for name, value in Dino(128, 2, 37, 4).state_dict().items()})
    theirs = Dinov2WithRegistersModel(config).eval()
    theirs.load_state_dict(renamed(weights | {"mask_token": torch.zeros(1, 128)}))
    pictures = [Image.fromarray(image.permute(1, 2, 0).numpy()).resize((224, 224), Image.BICUBIC) for image in IMAGES]
    levels = torch.from_numpy(np.stack([np.asarray(picture) for picture in pictures])).permute(0, 3, 1, 2)
    mean, deviation = (torch.tensor(x)[:, None, None] for x in (MEAN, DEVIATION))
    seen = theirs((levels / 255 - mean) / deviation).last_hidden_state[:, 0]
    return seen, ours("dino", weights)


if __name__ == "__main__":
    with torch.inference_mode():
        for kind in (inception, dino):
            theirs, mine = kind()
            print(f"{kind.__name__}: largest difference {(theirs - mine).abs().max():.1e}, of {theirs.std():.2f}")
            print([[round(value, 5) for value in row] for row in seen_from_four_sides(theirs).tolist()])
