"""Weights and images for networks whose trained ones are not at hand; the same numbers wherever they are asked for."""

import torch


def seeded(shapes):
    """name → float32 tensor for name → shape: noise of the size that keeps activations of the order of 1."""
    generator = torch.Generator().manual_seed(0)
    found = {}
    for name in sorted(shapes):
        shape, last = tuple(shapes[name]), name.rsplit(".", 1)[-1]
        noise = torch.randn(shape, generator=generator)
        if last == "running_var":
            found[name] = 0.5 + noise.abs()
        elif len(shape) == 1:
            found[name] = noise / 5 + (last in ("weight", "gamma"))
        else:
            found[name] = noise * (2 / noise[0].numel()) ** 0.5
    return found


def colours(count, height, width):
    """Random images, uint8 [count, 3, height, width]."""
    return torch.randint(
        0, 256, (count, 3, height, width), generator=torch.Generator().manual_seed(1), dtype=torch.uint8
    )


def seen_from_four_sides(features):
    """Four numbers for each row of features, in which every feature and its place count."""
    places = torch.arange(features.shape[1], dtype=torch.float64)
    return features.double() @ torch.cos(places[:, None] * torch.arange(1, 5)) / len(places) ** 0.5
