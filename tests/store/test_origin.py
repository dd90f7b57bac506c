"""A run that another stands on is known again by its weights, and told from one that is trained anew."""

import json

import pytest

from ebb.errors import UsageError
from ebb.store.checkpoint import sha256
from ebb.store.origin import Origin, unchanged


def written(folder, **files):
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        (folder / f"{name}.safetensors").write_bytes(content)
    return folder


def test_it_is_the_hash_of_its_own_part_or_of_the_averaged_weights(tmp_path):
    trained = written(tmp_path / "trained", ema=b"averaged", model=b"raw")
    assert Origin.of("runs/a", "autoencoder", trained).sha256 == sha256(trained / "ema.safetensors")
    latent = written(tmp_path / "latent", ema=b"of a denoiser", autoencoder=b"of latents")
    assert Origin.of("runs/b", "autoencoder", latent).sha256 == sha256(latent / "autoencoder.safetensors")
    assert Origin.of("runs/b", "teacher", latent).sha256 == sha256(latent / "ema.safetensors")


def test_it_is_json_and_back():
    origin = Origin("runs/a", "ab" * 32, "teacher")
    assert Origin.read(json.loads(json.dumps(origin.facts()))) == origin


def test_other_weights_are_refused_with_what_was_expected_and_the_way_out():
    then, now = Origin("runs/a", "a" * 64, "teacher"), Origin("runs/a", "b" * 64, "teacher")
    unchanged([then], [then])
    unchanged([], [now])
    unchanged([then], [Origin("runs/c", "c" * 64, "autoencoder")])
    unchanged([then], [Origin("elsewhere/a", "a" * 64, "teacher")])
    with pytest.raises(UsageError, match=r"teacher .* runs/a had sha256 aaaaaaaaaaaa…, now bbbbbbbbbbbb…") as refused:
        unchanged([then], [now])
    assert refused.value.hint == "bring back runs/a as it was, or start anew with it as it is: --fresh"
