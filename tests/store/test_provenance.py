"""What a file says of those it was made from."""

from ebb.store.provenance import named_apart


def test_files_of_one_name_elsewhere_are_told_apart(tmp_path, monkeypatch):
    """Adapters' runs all have their numbers in a file of the same name; each is one entry, the first as ever."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    one, two = tmp_path / "one" / "ema.safetensors", tmp_path / "two" / "ema.safetensors"
    inside = tmp_path / "here" / "runs" / "ema.safetensors"
    found = named_apart([one, two, one, inside])
    assert found == {"ema.safetensors": one, "ema.safetensors (2)": two, "runs/ema.safetensors": inside}
