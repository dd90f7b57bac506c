"""Published networks on random weights: what they compute is held against other implementations (bench/pretrained.py)."""

from __future__ import annotations

import hashlib
from itertools import product

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from PIL import Image
from safetensors.torch import save_file
from scipy.special import erf

from ebb.errors import DamagedError, DataError, UsageError
from ebb.judge import dino, inception
from ebb.judge import pretrained as pretrained_module
from ebb.judge.dino import Dino
from ebb.judge.features import Features
from ebb.judge.inception import Inception
from ebb.judge.pretrained import pretrained

from .weights import colours, seeded, seen_from_four_sides


@pytest.fixture(scope="session")
def inception_file(tmp_path_factory):
    file = tmp_path_factory.mktemp("weights") / "pt_inception.safetensors"
    weights = seeded({name: value.shape for name, value in Inception().state_dict().items()})
    save_file(weights | {"fc.weight": torch.zeros(1008, 2048), "fc.bias": torch.zeros(1008)}, file)
    return file


def small_dino(registers):
    return seeded({name: value.shape for name, value in Dino(128, 2, 37, registers).state_dict().items()})


@pytest.fixture
def dino_file(tmp_path):
    file = tmp_path / "dinov2.safetensors"
    save_file(small_dino(registers=4) | {"mask_token": torch.zeros(1, 128)}, file)
    return file


def features_of(spec, images):
    with torch.inference_mode():
        return pretrained(spec)(images / 127.5 - 1)


# ---- Inception


def resized(images, side, offset=0.0):
    """The definition, a pixel at a time: place (i + offset) · in / out − offset, linear between the two nearest."""
    *_, height, width = images.shape
    found = np.zeros((side, side))
    for i, j in product(range(side), range(side)):
        y, x = ((k + offset) * n / side - offset for k, n in ((i, height), (j, width)))
        y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
        (top, left), (down, right) = (int(y), int(x)), (min(int(y) + 1, height - 1), min(int(x) + 1, width - 1))
        up = images[top, left] * (1 - x % 1) + images[top, right] * (x % 1)
        low = images[down, left] * (1 - x % 1) + images[down, right] * (x % 1)
        found[i, j] = up * (1 - y % 1) + low * (y % 1)
    return found


@pytest.mark.parametrize("shape", [(5, 8), (13, 13), (30, 17)])
def test_images_are_resized_as_tensorflow_1_does(shape):
    image = torch.rand(shape, generator=torch.Generator().manual_seed(0)) * 255
    found = inception.resize(image[None, None], side=13)[0, 0].numpy()
    np.testing.assert_allclose(found, resized(image.numpy(), 13), atol=1e-3)
    if shape != (13, 13):
        assert np.abs(found - resized(image.numpy(), 13, offset=0.5)).max() > 10


def check_inception(file):
    """torch-fidelity 0.4.0 with these weights and images, by bench/pretrained.py."""
    expected = [[0.79821, -0.2314, -0.18384, 0.27652], [0.80493, -0.22919, -0.18253, 0.26731]]
    found = features_of(f"inception:{file}", colours(2, 40, 56))
    assert found.shape == (2, 2048)
    np.testing.assert_allclose(seen_from_four_sides(found), expected, atol=1e-4)


def test_inception_is_that_of_the_reference(inception_file):
    check_inception(inception_file)


@pytest.mark.parametrize("mutant", ["average counts the padding", "average in the last block", "half a pixel"])
def test_inception_with_another_rule_is_caught(inception_file, monkeypatch, mutant):
    if mutant == "half a pixel":
        monkeypatch.setattr(inception, "resize", lambda x: F.interpolate(x, (299, 299), mode="bilinear"))
    elif mutant == "average counts the padding":
        monkeypatch.setattr(inception.AVERAGE, "count_include_pad", True)
    else:
        monkeypatch.setattr(inception, "LARGEST", inception.AVERAGE)
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        check_inception(inception_file)


# ---- DINOv2


@pytest.mark.parametrize("shape", [(28, 28), (224, 32), (96, 301), (500, 400)])
def test_images_are_resized_as_pillow_does(shape):
    image = colours(1, *shape)
    picture = Image.fromarray(image[0].permute(1, 2, 0).numpy()).resize((224, 224), Image.Resampling.BICUBIC)
    found = dino.resize(image.float())[0].permute(1, 2, 0).numpy()
    np.testing.assert_array_equal(found, np.asarray(picture))


def test_dino_with_registers_is_that_of_the_reference(dino_file):
    """transformers 5.23.0 with these weights and images, by bench/pretrained.py."""
    expected = [[0.28542, 0.17744, -0.73639, 0.89192], [0.92748, 0.19712, -0.9465, 0.47655]]
    found = features_of(f"dino:{dino_file}", colours(2, 40, 56))
    np.testing.assert_allclose(seen_from_four_sides(found), expected, atol=1e-4)


def cubic(far, a=-0.75):
    """The kernel of cubic convolution at a distance, with PyTorch's constant."""
    if far < 1:
        return ((a + 2) * far - (a + 3)) * far**2 + 1
    return (((far - 5) * far + 8) * far - 4) * a if far < 2 else 0.0


def positions(weights, scale):
    """The learned 37×37 positions on 16×16 places, [256, d]: place (i + ½) / scale − ½, edges repeated."""
    along = np.zeros((16, 37))
    for i in range(16):
        place = (i + 0.5) / scale - 0.5
        for j in range(int(place) - 1, int(place) + 3):
            along[i, min(max(j, 0), 36)] += cubic(abs(place - j))
    return np.einsum("ia,jb,abd->ijd", along, along, weights["pos_embed"][0, 1:].reshape(37, 37, -1)).reshape(256, -1)


def norm(x, weights, name):
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
    return x * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def linear(x, weights, name):
    return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]


def by_hand(weights, image, scale=16.1 / 37):
    """DINOv2 without registers in NumPy, for one image uint8 [3, 224, 224]."""
    weights = {name: value.double().numpy() for name, value in weights.items()}
    colour = (image.numpy() / 255 - np.reshape(dino.MEAN, (3, 1, 1))) / np.reshape(dino.DEVIATION, (3, 1, 1))
    patches = colour.reshape(3, 16, 14, 16, 14).transpose(1, 3, 0, 2, 4).reshape(256, -1)
    patches = patches @ weights["patch_embed.proj.weight"].reshape(128, -1).T + weights["patch_embed.proj.bias"]
    token = weights["cls_token"][0] + weights["pos_embed"][0, :1]
    x = np.concatenate([token, patches + positions(weights, scale)])
    for i in range(2):
        block = {name.removeprefix(f"blocks.{i}."): value for name, value in weights.items()}
        q, k, v = linear(norm(x, block, "norm1"), block, "attn.qkv").reshape(257, 3, 2, 64).transpose(1, 2, 0, 3)
        seen = np.exp(q @ k.transpose(0, 2, 1) / 8)
        seen = (seen / seen.sum(-1, keepdims=True) @ v).transpose(1, 0, 2).reshape(257, 128)
        x = x + block["ls1.gamma"] * linear(seen, block, "attn.proj")
        hidden = linear(norm(x, block, "norm2"), block, "mlp.fc1")
        x = x + block["ls2.gamma"] * linear(hidden * (1 + erf(hidden / np.sqrt(2))) / 2, block, "mlp.fc2")
    return norm(x[0], weights, "norm")


def test_dino_without_registers_is_what_a_few_lines_of_numpy_compute(tmp_path):
    """And not with positions at the plain scale 16 / 37, which other ports take."""
    weights, image = small_dino(registers=0), colours(1, 224, 224)
    save_file(weights, tmp_path / "w.safetensors")
    found = features_of(f"dino:{tmp_path / 'w.safetensors'}", image)[0].numpy()
    np.testing.assert_allclose(found, by_hand(weights, image[0]), atol=1e-4)
    assert np.abs(found - by_hand(weights, image[0], scale=16 / 37)).max() > 1e-3


# ---- both


def test_features_are_what_measure_asks_for(dino_file, monkeypatch):
    """Grey is repeated, a batch does not matter, values are those of saved images; the name has the file's sha256."""
    monkeypatch.setattr(pretrained_module, "PART", 2)
    features = pretrained(f"dino:{dino_file}")
    assert isinstance(features, Features)
    assert (features.name, features.dimension) == (
        f"dino {hashlib.sha256(dino_file.read_bytes()).hexdigest()[:12]}",
        128,
    )
    grey = torch.rand(5, 1, 9, 9, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.inference_mode():
        found = features(grey)
        assert torch.equal(found, features(((grey + 1) * 127.5).round().expand(-1, 3, -1, -1) / 127.5 - 1))
        torch.testing.assert_close(found[3:], features(grey[3:]), rtol=0, atol=1e-5)
    with pytest.raises(DataError, match="1 or 3 channels, got 4"):
        features(torch.zeros(1, 4, 9, 9))


def test_the_file_asked_for_is_the_file_taken(dino_file):
    digest = hashlib.sha256(dino_file.read_bytes()).hexdigest()
    assert pretrained(f"dino:{dino_file}@{digest[:8].upper()}").name.endswith(digest[:12])
    with pytest.raises(DamagedError, match=rf"sha256 of 00ff…, got {digest[:12]}"):
        pretrained(f"dino:{dino_file}@00ff")


@pytest.mark.parametrize("spec", ["inception", "inception:", "dinov2:w.safetensors", "dino:no such file"])
def test_a_spec_that_is_not_understood(spec):
    with pytest.raises(UsageError, match=r"inception|no such file"):
        pretrained(spec)


def test_another_format_says_how_to_convert_it(tmp_path):
    file = tmp_path / "w.pth"
    torch.save({"a": torch.arange(3.0)}, file)
    with pytest.raises(UsageError, match="python -c") as caught:
        pretrained(f"inception:{file}")
    command = caught.value.hint.split('python -c "')[1][:-1]
    exec(command)  # what the user is told to run
    with pytest.raises(DamagedError, match="lacks 470"):
        pretrained(f"inception:{file.with_suffix('.safetensors')}")


def test_weights_of_another_network_are_refused(tmp_path, dino_file):
    file = tmp_path / "other.safetensors"

    def refused(weights, kind="dino"):
        save_file(weights, file)
        with pytest.raises(DamagedError) as caught:
            pretrained(f"{kind}:{file}")
        return str(caught.value)

    weights = small_dino(registers=4)
    assert "lacks 470" in refused(weights, "inception")
    assert "lacks 174" in refused({"x": torch.zeros(1)})
    assert "lacks 1, such as norm.bias" in refused({k: v for k, v in weights.items() if k != "norm.bias"})
    assert "has also 1, such as head.bias" in refused(weights | {"head.bias": torch.zeros(3)})
    wrong = weights | {"blocks.1.mlp.fc1.weight": torch.zeros(512, 64)}
    assert "blocks.1.mlp.fc1.weight of shape [512, 128]" in refused(wrong)
    file.write_bytes(dino_file.read_bytes()[:-1000])
    with pytest.raises(DamagedError, match="fetch it again"):
        pretrained(f"dino:{file}")
