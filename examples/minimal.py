"""Diffusion in one file, importing nothing of ebb: the same mathematics, and a test holds it to the same numbers.

    python examples/minimal.py

trains a rectified flow on two moons in a few seconds and prints how far its samples are from the data.
"""

import math

import torch
from torch import nn

# --- the forward process: x_t = alpha(t) x0 + sigma(t) eps, from data at t = 0 to noise at t = 1 ---------------------


def alpha(t):
    return 1 - t


def sigma(t):
    return t


def mix(x0, eps, t):
    return alpha(t)[:, None] * x0 + sigma(t)[:, None] * eps


# --- what the network learns: the velocity dx/dt = eps − x0, and the x0 it implies ------------------------------


def target(x0, eps):
    return eps - x0


def recover(x, velocity, t):
    """x0 = x − t·velocity, since x = (1 − t) x0 + t eps and velocity = eps − x0."""
    return x - t[:, None] * velocity


# --- the network: anything that maps (x, t) to the shape of x ------------------------------


class Network(nn.Module):
    def __init__(self, width=128):
        super().__init__()
        self.frequencies = torch.logspace(0, 2, 16)
        self.layers = nn.Sequential(
            nn.Linear(2 + 32, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 2)
        )

    def forward(self, x, t):
        angle = t[:, None].float() * self.frequencies
        return self.layers(torch.cat([x, torch.cos(angle), torch.sin(angle)], 1))


# --- training: guess the velocity at a random time ------------------------------


def loss_of(network, x0, generator):
    u = torch.rand(1, generator=generator, dtype=torch.float64) + torch.arange(len(x0), dtype=torch.float64) / len(x0)
    t = torch.sigmoid(torch.special.ndtri(u % 1)).clamp(min=1e-5).float()  # logit-normal, evenly spread
    eps = torch.randn(x0.shape, generator=generator)
    return ((network(mix(x0, eps, t), t) - target(x0, eps)) ** 2).mean()


def train(network, data, steps=2000, batch=256, seed=0):
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * (1 - step / steps)
        index = torch.randint(len(data), (batch,), generator=generator)
        loss_of(network, data[index], generator).backward()
        optimizer.step()
        optimizer.zero_grad()
    return network


# --- sampling: follow the flow from noise to data ------------------------------


def jump(x, x0, t, s):
    """The flow from t to s if x0 were constant (DDIM): x_s = r·x_t + (alpha_s − r·alpha_t)·x0, r = sigma_s/sigma_t."""
    r = sigma(s) / sigma(t)
    return r * x + (alpha(s) - r * alpha(t)) * x0


@torch.no_grad()
def heun(denoise, x, steps=16):
    """The trapezoidal rule on dx = x0 dalpha + eps dsigma (Karras et al. 2022, algorithm 1); last, a jump."""
    times = torch.linspace(1, 0, steps + 1, dtype=torch.float64)
    for t, s in zip(times[:-1].tolist(), times[1:].tolist(), strict=True):
        x0 = denoise(x, torch.full((len(x),), t))
        landed = jump(x, x0, t, s)
        if s > 0:
            there = denoise(landed, torch.full((len(x),), s))
            eps, eps_there = (x - alpha(t) * x0) / sigma(t), (landed - alpha(s) * there) / sigma(s)
            landed = x + (alpha(s) - alpha(t)) * (x0 + there) / 2 + (sigma(s) - sigma(t)) * (eps + eps_there) / 2
        x = landed
    return x


# --- data: two moons ------------------------------


def moons(count, generator):
    angle = math.pi * torch.rand(count, generator=generator)
    upper = torch.rand(count, generator=generator) < 0.5
    x = torch.where(upper, torch.cos(angle), 1 - torch.cos(angle)) - 0.5
    y = torch.where(upper, torch.sin(angle), 0.5 - torch.sin(angle)) - 0.25
    return torch.stack([x, y], 1) + 0.05 * torch.randn(count, 2, generator=generator)


if __name__ == "__main__":
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    data = moons(10_000, generator)
    network = train(Network(), data)
    made = heun(lambda x, t: recover(x, network(x, t), t), torch.randn(1000, 2, generator=generator))
    nearest = torch.cdist(made, data).min(1).values
    print(f"median distance from a sample to the nearest of 10,000 points: {nearest.median():.3f} (noise: 0.05)")
