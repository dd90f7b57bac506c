"""Whether a denoiser leaves the noise in, and whether that is because its output is read as what it is not."""

from __future__ import annotations

import math
from dataclasses import replace

from torch import Tensor

from ebb.doctor.finding import Finding, NothingToExamineError
from ebb.doctor.model_subject import NSR, ModelSubject, dead, rms
from ebb.doctor.remedies import Advice, longer
from ebb.process.denoiser import NetworkDenoiser
from ebb.process.path import Path
from ebb.process.predict import PREDICTIONS, Prediction

LEFT = 0.25
"""How much more of the noise than can be right x̂0 may hold at ν = 20 (`noise_in`)."""

FARTHER = 10
"""How many times as much noise is asked about besides, where the deviation of the data is not known."""

FAINT = 0.2
"""The size of an output that has been learnt: targets have 1 or near it at one end of the path or the other."""

CLEAR = (0.5, 1.5)
"""What x̂0 may hold of clear data (`data_in`) where an output is read as what it is; others have 0, or ten and more."""


def noise_in(model: ModelSubject, nsr: float) -> float:
    """The share of the noise ε that x̂0 holds at ν: its regression on ε, over every element of a few samples.

    By Stein's identity the posterior mean holds (α/σ)·mean posterior variance: at most `most_noise`.
    """
    _, eps = model.draw()
    return float((answered(model, nsr) * eps).mean() / eps.square().mean())


def most_noise(deviation: float, nsr: float) -> float:
    """ν·s²/(s² + ν²): no posterior mean of data of deviation s holds more of the noise; that of a Gaussian does.

    Its mean posterior variance is at most that of the best linear answer, s²ν²/(s² + ν²), by concavity for variances
    that differ between directions too.
    """
    return nsr * deviation**2 / (deviation**2 + nsr**2)


def data_in(model: ModelSubject, nsr: float) -> float:
    """The share of the data x0 that x̂0 holds at ν, by regression as `noise_in`."""
    x0, _ = model.draw()
    return float((answered(model, nsr) * x0).mean() / x0.square().mean())


def answered(model: ModelSubject, nsr: float) -> Tensor:
    """What the model itself says of the noisy data at ν."""
    with model.at_rest():
        return model.answer(model.noisy(nsr), model.time(nsr), model.rows())


def excess(model: ModelSubject) -> str:
    """The figures of an x̂0 that holds KEPT more of the noise at ν = 20 than can be right, in words; "" where it does
    not.

    Of data of unknown deviation s nothing is assumed: with FARTHER times as much noise a right answer holds less, as
    s²/ν, while of noise that is left in the share stays; between the two lies √(ν/ν'). NothingToExamineError where
    the path ends before twice as much.
    """
    nsr, path = NSR[-1], model.path
    share = noise_in(model, nsr)
    if path is None or not abs(share) >= LEFT:  # not a number is found by another check
        return ""
    said = f"with {nsr:g} times as much noise as data, its answer holds {share:.2f} of the noise; "
    if model.deviation is not None:
        most = most_noise(model.deviation, nsr)
        right = f"at most {most:.2g} can be right for data of deviation {model.deviation:.2g}"
        return said + right if abs(share) >= most + LEFT else ""
    farther = float(path.nsr(model.time(FARTHER * nsr))[0])
    if farther < 2 * nsr:
        raise NothingToExamineError(
            f"the path ends at {farther:.3g} times as much noise as data, too early to tell noise from data"
        )
    later = noise_in(model, farther)
    stays = abs(later) > abs(share) * math.sqrt(nsr / farther)
    return said + f"{later:.2f} with {farther:.3g} times as much, where it should fall" if stays else ""


def check_noise_left(model: ModelSubject) -> Finding | None:
    """Whether x̂0 holds more of the noise than can be right where there is almost nothing else, or as much of its
    negative (`excess`); with the target that the output is, if it is read as another."""
    said = "" if model.path is None or dead(model) else excess(model)
    if not said:
        return None
    other = "" if model.passage is not None else read_right(model)
    advice, commands = untaught(model)
    return Finding(
        "noise left",
        "the denoiser leaves the noise in",
        said,
        f"its output is read as another target than it was trained for: read as {other}, it leaves no noise"
        if other
        else "the network has learnt too little to tell noise from data, or was trained with another path",
        f"read it as {other}: NetworkDenoiser(network, path, prediction, …)" if other else advice,
        "error",
        () if other else commands,
    )


def untaught(model: ModelSubject) -> Advice:
    """What helps a network that has not learnt."""
    if model.run is not None:
        return longer(model.run)
    return "train it longer; if it was trained elsewhere, with the path and the clock that it was trained with", ()


def read_right(model: ModelSubject) -> str:
    """The target as which the network's output leaves no noise in and clear data as it is; "" where there is none.

    None of an output below FAINT: it says nothing of the target, and 0 is a denoiser of sorts when read as v or edm.
    """
    core = model.core
    if core is not model.model or not isinstance(core, NetworkDenoiser):
        return ""
    with model.at_rest():
        if max(rms(model.output(nsr)) for nsr in NSR) < FAINT:
            return ""
    for name, prediction in readings():
        other = NetworkDenoiser(core.network, core.path, prediction, core.clock, core.sigma_data)
        again = replace(model, model=other)
        if not excess(again) and CLEAR[0] <= data_in(again, NSR[0]) <= CLEAR[1]:
            return name
    return ""


def readings() -> list[tuple[str, Prediction]]:
    """Every target, and every one with its sign turned."""
    return [
        *PREDICTIONS.items(),
        *((f"{name} with its sign turned", turned(each)) for name, each in PREDICTIONS.items()),
    ]


def turned(prediction: Prediction) -> Prediction:
    """The target −F."""

    def negative(path: Path, t: Tensor) -> tuple[Tensor, Tensor]:
        a, b = prediction(path, t)
        return -a, -b

    return negative
