"""The part of a run's page that shows what an autoencoder keeps of its pictures."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

from ebb.report.page import number, table
from ebb.report.plot import bars
from ebb.report.samples_section import Album

Facts = Mapping[str, Any]


def reconstruction(facts: Facts, run: Path, album: Album) -> str:
    """Fidelity, what the latents hold and cost, and pictures: before and after, and the way from one to another."""
    if not facts:
        return ""
    rows = [("PSNR", f"{facts['psnr']:.1f} dB")]
    rows += [("SSIM", f"{facts['ssim']:.3f}")] if facts.get("ssim") is not None else []
    rows += [("energy of the finest detail, after over before", f"{facts['detail']:.0%}")]
    evidence, codes = facts.get("evidence"), facts.get("codes")
    if evidence:
        rows += [
            ("ELBO, nats an image", number(evidence["elbo"])),
            ("of which reconstruction", number(-evidence["reconstruction"])),
            ("of which divergence from the prior", number(-evidence["kl"])),
            ("at most so many bits per dimension", number(evidence["bits"])),
        ]
    if codes:
        rows += [("codes in use", f"{codes['usage']:.0%} of {codes['codes']}")]
        rows += [("perplexity of the codes", number(codes["perplexity"]))]
    nats = evidence["kl_per_channel"] if evidence else facts["activity"]
    spent = {f"channel {i}": (float(value), number(value)) for i, value in enumerate(nats)}
    unit = "Nats an image in each latent channel" if evidence else "Variance of each latent channel over the images"
    shown = [
        album.picture(run / "evaluation" / "reconstructions.png", "Pictures, and below each what is left of it"),
        album.picture(run / "evaluation" / "between.png", "On the straight line between the latents of two pictures"),
    ]
    return (
        f'<p class="soft">{escape(number(facts["count"]))} pictures, through the latents and back.</p>\n'
        + table(("", ""), rows)
        + f"<p>{escape(unit)}</p>\n{bars(spent)}"
        + (f'<div class="pair">{"".join(shown)}</div>\n' if any(shown) else "")
    )
