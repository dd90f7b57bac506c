"""A picture taken back to its noise, and sampled again: under another condition, or with something added to it."""

from __future__ import annotations

from torch import Tensor

from ebb.process.denoiser import Cond
from ebb.sample.invert import invert, refuse
from ebb.sample.scheme import Scheme, last
from ebb.shapes import Float


def translate(
    up: Scheme,
    down: Scheme,
    x0: Float[Tensor, "b *d"],
    source: Cond,
    target: Cond,
    added: Float[Tensor, "one *d"] | None = None,
) -> Float[Tensor, "b *d"]:
    """x0 to its noise along `up` under `source`, and to data again along `down` under `target`.

    The same noise under another condition is the picture's counterpart there (dual diffusion implicit bridges: Su et
    al. 2023, algorithm 1). The same scheme and condition both ways give x0 back, with an error of the solver's order:
    invert with more steps than you sample with. `down` may be guided; the way up rarely should be, since a guided
    flow carries errors far (Mokady et al. 2023). `added`, one row or one for each, goes to the noise (`direction`).

    Raises UsageError for a solver that draws noise.
    """
    z = last(invert(up.denoiser, up.solver, up.times, x0, source))
    return last(down(z if added is None else z + added, target, refuse))


def direction(plus: Float[Tensor, "m *d"], minus: Float[Tensor, "k *d"]) -> Float[Tensor, "1 *d"]:
    """mean(plus) − mean(minus) of the noises that two sets of pictures were inverted to.

    Added to the noise of a picture, times a scale, it moves the picture from what `minus` have in common towards what
    `plus` have (latent arithmetic: Radford et al. 2016, §6.3.2). The mean of m noises that have nothing in common is
    still √(n/m) long in n dimensions, so a direction wants many pictures.
    """
    return plus.mean(0, keepdim=True) - minus.mean(0, keepdim=True)
