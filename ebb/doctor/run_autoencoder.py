"""What may be wrong with a run that trained an autoencoder: latents that say nothing, dead codes, blur."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from ebb.doctor.finding import Check, Finding, NothingToExamineError
from ebb.doctor.looks import fine_power
from ebb.doctor.run_subject import RunSubject
from ebb.encode.autoencoder import Autoencoder
from ebb.shapes import Float
from ebb.understand.reconstruction import UNUSED

NOTHING = 0.01
"""Nats for each number of a latent below which it says nothing of the picture; one that is used costs 0.5 and more."""

DEAF = 0.01
"""The share of the pictures' deviation by which the decoder's answer moves when a channel is exchanged with another
picture's, below which it ignores the channel."""

COLLAPSED = 0.25
"""The share of channels, from which collapsed ones are spoken of: a latent somewhat too wide harms nothing."""

EACH = 4
"""Vectors for each code that it takes to tell which codes are dead."""

BLURRED = 0.5
"""The share of the pictures' power at high frequencies below which what comes back is blurred."""


def codec_of(run: RunSubject) -> Autoencoder:
    """The autoencoder that it trained; NothingToExamineError where it trained none."""
    if run.system.space is None:
        raise NothingToExamineError("there is no autoencoder in this run")
    return run.system.space.autoencoder


def places_of(run: RunSubject, x: Float[Tensor, "n c h w"]) -> int:
    """Numbers in each channel of a picture's latent."""
    factor = codec_of(run).factor
    return (x.shape[2] // factor) * (x.shape[3] // factor)


def check_posterior_collapse(run: RunSubject) -> Finding | None:
    """Channels of the latents that cost less than NOTHING nats a number and that the decoder does not hear (DEAF), from
    COLLAPSED of them on; an error where all are so (Bowman et al. 2016, §3.1; Lucas et al. 2019)."""
    seen = run.restored
    if seen.reconstruction.evidence is None:
        return None
    nats = np.array(seen.reconstruction.evidence.kl_per_channel) / places_of(run, seen.x)
    collapsed = (nats < NOTHING) & (np.array(seen.moved) < DEAF)
    if collapsed.mean() < COLLAPSED:
        return None
    least = int(nats.argmin())
    return Finding(
        "posterior collapse",
        "the latents say nothing of the picture" if collapsed.all() else "some channels of the latents say nothing",
        f"{int(collapsed.sum())} of {len(nats)} channels cost less than {NOTHING:g} nats a number, and one exchanged "
        f"with another picture's moves the answer by less than {DEAF:.0%} of the pictures' deviation: channel {least} "
        f"costs {nats[least]:.2g} and moves it by {seen.moved[least]:.1%}",
        "the divergence from the prior weighs more than what a channel would tell, so the encoder falls silent",
        "weigh the divergence less, from later on, or leave it some nats for nothing",
        "error" if collapsed.all() else "warning",
        (run.again(lighter(run)),),
    )


def lighter(run: RunSubject) -> dict[str, object]:
    """A tenth of the divergence's weight."""
    how = getattr(run.recipe, "autoencoding", None)
    return {"autoencoding.beta": getattr(how, "beta", 1e-5) / 10}


def check_dead_codes(run: RunSubject) -> Finding | None:
    """A codebook of which fewer than UNUSED are used by at least EACH vectors for each code, or whose perplexity is as
    low; NothingToExamineError where the data has too few vectors to tell."""
    seen = run.restored
    if seen.reconstruction.codes is None:
        return None
    codes, vectors = seen.reconstruction.codes, places_of(run, seen.x) * len(seen.x)
    if vectors < EACH * codes.codes:
        raise NothingToExamineError(f"{vectors:,} vectors are too few to tell which of {codes.codes} codes are dead")
    if codes.usage >= UNUSED and codes.perplexity >= UNUSED / 5 * codes.codes:
        return None
    fewer = max(2, 1 << int(np.log2(max(2.0, codes.perplexity))))
    return Finding(
        "dead codes",
        "most of the codebook is dead",
        f"{codes.usage:.0%} of {codes.codes} codes are used, as evenly as {codes.perplexity:.3g} would be",
        "codes far from every vector are never chosen, and so never move; or there are more than the data needs",
        f"take about as many codes as are used ({fewer}), or train longer: while it trains dead ones are moved",
        commands=(run.again({"autoencoding.codes": fewer}),),
    )


def check_reconstructions_blurred(run: RunSubject) -> Finding | None:
    """What comes back has less than BLURRED of the pictures' power at high frequencies (`looks.fine_power`)."""
    seen = run.restored
    share = fine_power(seen.back) / max(fine_power(seen.x), 1e-12)
    if share >= BLURRED:
        return None
    return Finding(
        "reconstructions blurred",
        "what comes back of pictures is blurred",
        f"it has {share:.0%} of their power at high frequencies; PSNR {seen.reconstruction.psnr:.1f} dB",
        "a squared error asks for the mean of all that a latent may stand for, and the latent holds too little",
        "give the latents more channels or places, a distance in features (--autoencoding.perceptual), or a critic "
        "(--autoencoding.adversarial)",
        commands=(run.again({"autoencoding.latent": 2 * codec_of(run).latent}),),
    )


AUTOENCODER_CHECKS: list[Check[RunSubject]] = [
    check_posterior_collapse,
    check_dead_codes,
    check_reconstructions_blurred,
]
"""What is asked of a run that trained an autoencoder, in this order."""
