"""The doctor on adapters' files: each fault is found where it is planted, and none in a good one of any format."""

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from ebb.adapt.adapter import fresh
from ebb.adapt.adapter_files import WRITERS
from ebb.doctor.diagnose import diagnose
from ebb.errors import DataError, UsageError
from ebb.networks.mlp import MLP


def good(place, form="kohya"):
    torch.manual_seed(0)
    adapter = fresh(MLP(5, width=32), "a", 2)
    for change in adapter.changes.values():
        change.up.data.normal_(std=0.1)
    WRITERS[form](adapter, place)
    return place


def edited(place, change):
    """The file with its tensors changed in place, or others in their stead."""
    with safe_open(place, framework="pt") as file:
        tensors, facts = {key: file.get_tensor(key) for key in file.keys()}, file.metadata()  # noqa: SIM118
    save_file(change(tensors) or tensors, place, facts)
    return place


def without(end, every=1):
    """Tensors without those that end so, one in so many of them."""
    return lambda tensors: {
        key: t for i, (key, t) in enumerate(tensors.items()) if not (key.endswith(end) and (i // 3) % every == 0)
    }


def scaled(end, by, only=""):
    def change(tensors):
        for key, tensor in tensors.items():
            if key.endswith(end) and only in key:
                tensor.mul_(by)

    return change


PLANTED = {
    "half missing": without(".lora_up.weight", 2),
    "scale missing": without(".alpha"),
    "adapter not finite": scaled(".lora_down.weight", torch.nan, "_out"),
    "scale odd": scaled(".alpha", 1000),
    "half untrained": scaled(".lora_up.weight", 0, "_out"),
    "adapter silent": scaled(".lora_up.weight", 0),
}


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_fault_is_found_by_its_name(name, tmp_path):
    found = diagnose(edited(good(tmp_path / "a.safetensors"), PLANTED[name]))
    assert [finding.name for finding in found.findings] == [name]


@pytest.mark.parametrize("form", WRITERS)
def test_a_good_one_is_quiet(form, tmp_path):
    found = diagnose(good(tmp_path / ("a" if form == "peft" else "a.safetensors"), form))
    assert found.findings == []
    assert len(found.checked) == len(PLANTED)


def test_what_is_no_adapter_is_answered_as_before(tmp_path):
    with pytest.raises((DataError, UsageError)):
        diagnose(edited(good(tmp_path / "a.safetensors"), lambda _: {"other": torch.zeros(1)}))
