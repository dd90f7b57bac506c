"""The numbers of examples/worked.py against answers of their own, in plain Python where there is one."""

import math
import runpy
from itertools import accumulate
from operator import mul
from pathlib import Path

import pytest

FILE = Path(__file__).parents[1] / "examples" / "worked.py"

BETA = [1e-4 + k * (0.02 - 1e-4) / 999 for k in range(1000)]
BAR = list(accumulate((1 - b for b in BETA), mul))
ROOT = [math.sqrt(0.00085) + k * (math.sqrt(0.012) - math.sqrt(0.00085)) / 999 for k in range(1000)]
COSINE = [math.cos((n / 1000 + 0.008) / 1.008 * math.pi / 2) ** 2 for n in range(1001)]
BOUND = [b / (2 * (1 - b) * (1 - bar)) for b, bar in zip(BETA, BAR, strict=True)]


def crossing(values, level):
    """Where a falling list passes a level, by its neighbours."""
    n = next(i for i, value in enumerate(values) if value < level)
    return n - (level - values[n]) / (values[n - 1] - values[n])


def misread(count):
    return math.prod(1 - (0.5 * math.cos((k / 1000 + 0.008) * math.pi / 2) ** 2 + 1e-4) for k in range(count))


RIGHT = {
    "ᾱ₅₀₀, linear β": BAR[499],
    "n at which ᾱ = 0.30, linear β": 1 + crossing(BAR, 0.3),
    "n at which ᾱ = 0.30, cosine": crossing([f / COSINE[0] for f in COSINE], 0.3),
    "ᾱ₅₀₀, cosine": COSINE[500] / COSINE[0],
    "σ₉₉₉, linear β": math.sqrt(1 - BAR[998]),
    "α₁₀₀₀, linear β": math.sqrt(BAR[999]),
    "ᾱ₁₀₀₀, scaled-linear": math.prod(1 - r * r for r in ROOT),
    "signal where ᾱ = 0.30, amplitude": math.sqrt(0.3),
    "ᾱ after 10 steps, β = cos²(…)/2": misread(10),
    "ᾱ after 20 steps, β = cos²(…)/2": misread(20),
    "largest 1/√(1 − β)": 1 / math.sqrt(0.98),
    "largest 1/√(1 − ᾱ)": 100,
    "SNR at n = 1": 9999,
    "1/(1 + SNR) at n = 1": 1e-4,
    "1/(1 + SNR) at n = 500": 1 - BAR[499],
    "√(1 − ᾱ₅₀₀), of DDPM's mean": math.sqrt(1 - BAR[499]),
    "1 − ᾱ₁ by products in float32, error": 1.7e-4,
    "timesteps that bf16 tells apart": 256 + 128 + 122,
    "times that ebb's clock tells apart": 1000,
    "first of 50 steps, index 980": 981,
    "first of 50 steps, trailing": 1000,
    "weight of the bound at n = 1000": 0.02 / (2 * 0.98 * (1 - BAR[999])),
    "share of the bound in 1 % of steps": sum(BOUND[:10]) / sum(BOUND),
    "share of the bound in 10 % of steps": sum(BOUND[:100]) / sum(BOUND),
    "guidance 7.5 between 0 and 1": 7.5,
    "deviation of N(0, 1) at τ = 1.5": math.sqrt(1.5),
    "variance of d(z²)/dμ, reparameterised": 4,
    "KL of N(1, ½²) from N(0, 1)": (1 + 0.25 - 1 + 2 * math.log(2)) / 2,
    "numbers of 512² that latents spare": 512 * 512 * 3 / (64 * 64 * 4),
    "entropy of attention 28, 26, 24, 22 %": -sum(p * math.log(p, 4) for p in (0.28, 0.26, 0.24, 0.22)),
    "Fréchet distance of N(0, 1), N(3, 2²)": 10,
}
LOOSE = {"1 − ᾱ₁ by products in float32, error": 0.05, "variance of d(z²)/dμ, reparameterised": 0.02}


@pytest.fixture(scope="module")
def worked():
    return {one.what: one for one in runpy.run_path(str(FILE))["WORKED"]}


def test_every_number_has_an_answer_of_its_own(worked):
    assert list(worked) == list(RIGHT)


@pytest.mark.parametrize("what", RIGHT)
def test_the_number_is_right(worked, what):
    assert worked[what].right() == pytest.approx(RIGHT[what], rel=LOOSE.get(what, 1e-3))


def test_what_the_texts_say_is_another_number(worked):
    """A mutant of each corrected number: the one that was stated is not within the tolerance."""
    stated = {"ᾱ₅₀₀, linear β": 0.30, "n at which ᾱ = 0.30, linear β": 500, "n at which ᾱ = 0.30, cosine": 500,
              "σ₉₉₉, linear β": 0.998, "first of 50 steps, index 980": 999}  # fmt: skip
    for what, wrong in stated.items():
        assert float(worked[what].says) == wrong
        assert worked[what].right() != pytest.approx(wrong, rel=1e-3)


def test_the_table_is_printed(capsys):
    runpy.run_path(str(FILE), run_name="__main__")
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + len(RIGHT)
    assert "0.078587" in lines[1]
