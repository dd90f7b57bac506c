"""LPIPS on random weights: the published ones cannot be had here, so its definition is written out once more."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from safetensors.torch import save_file

from ebb.errors import DamagedError, UsageError
from ebb.judge.lpips import Lpips
from ebb.judge.pretrained import lpips
from ebb.recipe.document import validated
from ebb.system.system import load
from ebb.train.objectives.autoencoding import perceived

from ..toys import trained, write
from .weights import seeded


def published():
    """Tensors by the names of lpips.LPIPS(net="vgg").state_dict(), with the second names of the linear layers."""
    found = seeded({name: value.shape for name, value in Lpips().state_dict().items()})
    found["scaling_layer.shift"] = torch.tensor([-0.030, -0.088, -0.188])[None, :, None, None]
    found["scaling_layer.scale"] = torch.tensor([0.458, 0.448, 0.450])[None, :, None, None]
    lins = {name: value.abs() for name, value in found.items() if name.startswith("lin")}
    return found | lins | {f"lins.{name[3]}{name[4:]}": value.clone() for name, value in lins.items()}


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    where = tmp_path_factory.mktemp("weights") / "lpips.safetensors"
    save_file(published(), where)
    return where


def plainly(w, x, y):
    """Zhang et al. 2018, eq. 1, layer by layer, for one pair of colour images."""

    def seen(x):
        x, found = (x - w["scaling_layer.shift"]) / w["scaling_layer.scale"], []
        for at, layer in enumerate("CCPCCPCCCPCCCPCCC"):
            if layer == "P":
                found.append(x)
                x = F.max_pool2d(x, 2, 2)
            else:
                stage, place = len(found) + 1, 2 * at - len(found)  # a ReLU after each convolution, none after a pool
                x = F.conv2d(x, w[f"net.slice{stage}.{place}.weight"], w[f"net.slice{stage}.{place}.bias"], padding=1)
                x = x.clamp(min=0)
        return [*found, x]

    total = 0.0
    for depth, (a, b) in enumerate(zip(seen(x), seen(y), strict=True)):
        a, b = (f / (f.square().sum(1, keepdim=True).sqrt() + 1e-10) for f in (a, b))
        total += ((a - b).square() * w[f"lin{depth}.model.1.weight"]).sum(1).mean()
    return total


def test_it_is_the_definition(file):
    x, y = torch.rand(2, 1, 3, 35, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    found = perceived(lpips(file, torch.device("cpu")), x, y)
    torch.testing.assert_close(found, plainly(published(), x, y), rtol=1e-4, atol=1e-6)
    wrong = published() | {"scaling_layer.shift": torch.zeros(1, 3, 1, 1)}
    assert not torch.isclose(found, plainly(wrong, x, y), rtol=1e-3)


def test_grey_is_repeated_and_gradients_pass(file):
    network = lpips(file, torch.device("cpu"))
    x, y = (torch.rand(2, 2, 1, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1).unbind()
    colour = perceived(network, x.expand(-1, 3, -1, -1), y.expand(-1, 3, -1, -1))
    x.requires_grad_()
    found = perceived(network, x, y)
    torch.testing.assert_close(found, colour)
    found.backward()
    assert torch.isfinite(x.grad).all()
    assert x.grad.abs().sum() > 0


def test_an_autoencoder_is_trained_with_it_without_labels(file, tmp_path):
    write(tmp_path / "data", side=16)
    how = {"factor": 2, "latent": 3, "width": 16, "perceptual": 0.1, "lpips": str(file)}
    trained(tmp_path / "data", tmp_path / "run", kind="autoencoder", autoencoding=how)
    assert load(tmp_path / "run").model.family == "autoencoder"


def test_what_does_not_fit_is_refused_by_name(file, tmp_path):
    with pytest.raises(UsageError, match="16 pixels a side or more, got 8×32"):
        lpips(file, torch.device("cpu"))(torch.zeros(1, 3, 32, 8))
    with pytest.raises(UsageError, match="no such file"):
        lpips(tmp_path / "none.safetensors", torch.device("cpu"))
    part = {name: value for name, value in published().items() if not name.startswith("lin4")}
    save_file(part, tmp_path / "part.safetensors")
    with pytest.raises(DamagedError, match="lacks 1, such as lin4"):
        lpips(tmp_path / "part.safetensors", torch.device("cpu"))
    with pytest.raises(UsageError, match="whose weight is 0"):
        validated({"kind": "autoencoder", "autoencoding": {"lpips": str(file)}}, "a file")
