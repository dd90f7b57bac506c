"""The verdict: one sentence of what was measured, and the command that what stands out most asks for."""

from pathlib import Path

import pytest

from ebb.report.card import write_figures
from ebb.report.verdict import following, opening, verdict

RUN = Path("runs/digits")


def measured(right=0.5, low=0.45, label=0.97, copies="no sign of memorisation: 1 %", n=2000, **more):
    """Facts as evaluation.json has them."""
    test = {"value": right, "low": low, "high": 0.9, "floor": 0.5, "needs": 1000}
    facts = {"distances": {"two-sample test": test}, "n_samples": n, "n_reference": 5000}
    return facts | {"label_accuracy": label, "classifier_accuracy": 0.99, "memorisation": {"verdict": copies}} | more


def test_a_whole_verdict_reads_as_a_sentence():
    assert opening(measured(0.81, 0.78), RUN) == (
        "a stranger tells these from real ones in 81 of 100 cases (by chance 50); they show their label in 97 of 100"
        " (real ones in 99); no sign of copies; next: ebb doctor runs/digits"
    )


@pytest.mark.parametrize(
    ("facts", "said", "then"),
    [
        (measured(), "a stranger cannot tell these from real ones (right in 50 of 100", "ebb sample"),
        (measured(n=20), "too few to say whether a stranger", "ebb evaluate runs/digits --n 1000"),
        (measured(n=20, n_reference=30), "too few to say", "ebb sample"),
        (measured(label=0.4), "their label in 40 of 100", "ebb sweep runs/digits --guidance 1 1.5 2"),
        (measured(copies="some samples are copies: 9 %"), "some samples are copies", "ebb doctor"),
        (measured(copies="cannot tell: few"), "whether any are copies cannot be told", "ebb sample"),
    ],
)
def test_each_case_is_said_and_has_its_command(facts, said, then):
    assert said in verdict(facts)
    assert following(facts, RUN).startswith(then)


def test_captions_stand_beside_chance_and_real_pictures():
    found = {"count": 300, "among": 20, "share": 0.78, "ceiling": 0.76}
    said = "78 of 100 unseen captions find their own sample among 20 (by chance 5, real pictures 76)"
    assert said in verdict(measured(matched_unseen=found, matched=found | {"share": 0.1}))
    scenes = {"count": 300, "share": 0.43, "things": 0.8, "novel": None, "ceiling": 0.98}
    assert "they show all that was asked in 43 of 100 (real ones in 98)" in verdict(measured(agreement=scenes))


def test_what_was_not_measured_is_not_spoken_of():
    assert verdict({}) == opening({}, RUN) == ""
    assert verdict({"memorisation": {"verdict": "no sign of memorisation: 1 %"}}) == "no sign of copies"
    distance = {"Fréchet distance": {"value": 0.1234, "floor": 0.05}}
    assert verdict({"distances": distance}) == "their Fréchet distance is 0.123, that of real ones 0.05"


def test_figures_replace_those_before_and_leave_the_rest_of_a_card(tmp_path):
    facts = {"distances": {}, "label_accuracy": 0.9, "classifier_accuracy": 0.99, "n_samples": 1000}
    facts |= {"n_reference": 2000, "features": "classifiers", "settings": {"steps": 8}, "warnings": ["few"]}
    (tmp_path / "card.md").write_text("# run\n\n## Figures\n\nNone.\n\n## Data\n\nNothing.\n")
    for share in (0.9, 0.8):
        write_figures(tmp_path, facts | {"label_accuracy": share})
    card = (tmp_path / "card.md").read_text()
    assert card.startswith("# run\n\n## Figures\n\nthey show their label in 80 of 100 (real ones in 99).\n\n|")
    assert card.endswith("- few\n\n## Data\n\nNothing.\n")
    assert card.count("## Figures") == card.count("| label accuracy |") == 1
    (tmp_path / "card.md").unlink()
    write_figures(tmp_path, facts)
    assert not (tmp_path / "card.md").exists()
