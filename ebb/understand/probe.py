"""What goes on inside a network, watched without touching its code: attention, activations, reactions."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ebb.errors import UsageError
from ebb.networks import attention
from ebb.networks.evaluating import differentiable, evaluating
from ebb.process.bins import BINS, centres
from ebb.process.denoiser import Cond, Denoiser, Predictor
from ebb.process.moment import where
from ebb.sample.noise import Noise
from ebb.shapes import Float


class Watching(TorchFunctionMode):
    """Hands the arguments of every scaled dot-product attention to `see`, and lets the call go on as it was."""

    def __init__(self, see: Callable[..., None]) -> None:
        super().__init__()
        self.see = see

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """The function's own answer."""
        if func is F.scaled_dot_product_attention:
            self.see(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


@contextmanager
def attention_maps(network: nn.Module) -> Iterator[dict[str, list[Tensor]]]:
    """While it lasts, the attention probabilities of every layer of `network`: float32 [b, heads, queries, keys].

    One for each call, in order. The network's answers stay what they are, bit for bit: softmax(q·kᵀ/√d + mask) is
    computed a second time from the arguments of `F.scaled_dot_product_attention`. Names are those of the modules in
    which it was called. Attention written in another way is not seen, nor what runs inside a compiled graph.

    Raises UsageError while scores are changed (`ebb.networks.attention.rescored`), which torch computes in another way.
    """
    if attention.CHANGE is not None:
        raise UsageError("changed scores of attention cannot be watched", "leave ebb.networks.attention.rescored first")
    maps, within = dict[str, list[Tensor]](), list[str]()

    def see(*args: Any, **kwargs: Any) -> None:
        maps.setdefault(within[-1] if within else "", []).append(probabilities(*args, **kwargs))

    with ExitStack() as stack:
        for name, module in network.named_modules():
            enter = module.register_forward_pre_hook(lambda _module, _inputs, name=name: within.append(name))
            leave = module.register_forward_hook(lambda _module, _inputs, _output: leaving(within), always_call=True)
            stack.callback(enter.remove)
            stack.callback(leave.remove)
        stack.enter_context(Watching(see))
        yield maps


def leaving(within: list[str]) -> None:
    """One module less; a hook that answers None leaves the output alone."""
    within.pop()


@torch.no_grad()
def probabilities(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """softmax(q·kᵀ·scale + mask) in float32, before dropout; the arguments are those of `scaled_dot_product_attention`.

    A query that may look at nothing has NaN.
    """
    with torch.autocast(query.device.type, enabled=False):
        query, key = query.float(), key.float()
        if enable_gqa:
            key = key.repeat_interleave(query.shape[-3] // key.shape[-3], -3)
        scores: Tensor = query @ key.mT * (scale if scale is not None else query.shape[-1] ** -0.5)
        if is_causal:
            attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
        if attn_mask is not None and attn_mask.dtype == torch.bool:
            scores = scores.masked_fill(~attn_mask, -math.inf)
        elif attn_mask is not None:
            scores = scores + attn_mask
        return torch.softmax(scores, -1)


def entropy(probability: Float[Tensor, "*b n"]) -> Float[Tensor, "*b"]:
    """−Σ p·log p/log n of each distribution over the last axis: 1 where it is even, 0 where it is all in one place.

    Of attention maps [b, heads, queries, keys]: how widely each query looks.
    """
    nats: Tensor = torch.special.entr(probability).sum(-1)
    return nats / math.log(max(2, probability.shape[-1]))


def entropy_of_keys(maps: Float[Tensor, "*b q k"]) -> Float[Tensor, "*b k"]:
    """How widely each key is looked at: the entropy of its share of attention over the queries, as `entropy`.

    In attention to a condition the keys are its tokens: one that is seen from everywhere alike has 1 and says nothing
    about places, one that belongs to a single place has 0. A key that nothing looks at has NaN.
    """
    return entropy((maps / maps.sum(-2, keepdim=True)).mT)


@dataclass(frozen=True)
class Activation:
    """What a layer put out over all its calls: mean, standard deviation and largest size of its values.

    `zeros` is the share of values that are exactly 0; `dead` the share of places (of all axes but the batch) that were
    the same for every sample of a call, None where no call had two. A layer that hears only the time, or a label, is
    dead by that measure where the batch shares it.
    """

    mean: float
    std: float
    largest: float
    zeros: float
    dead: float | None
    calls: int


@contextmanager
def activations(network: nn.Module) -> Iterator[dict[str, Activation]]:
    """While it lasts, the statistics of the output of every layer (module without parts) by its name.

    Read them inside the block or after it; a layer that was not called is absent. Nothing of the network changes.
    """
    found, sums = dict[str, Activation](), dict[str, Tensor]()

    def see(name: str, output: Any) -> None:
        if isinstance(output, Tensor) and output.is_floating_point() and output.numel():
            sums[name] = merged(sums.get(name), output.detach())
            found[name] = summed(sums[name])

    with ExitStack() as stack:
        for name, module in network.named_modules():
            if next(module.children(), None) is None:
                hook = module.register_forward_hook(lambda _module, _inputs, output, name=name: see(name, output))
                stack.callback(hook.remove)
        yield found


def merged(before: Tensor | None, output: Tensor) -> Tensor:
    """[calls, count, sum, sum of squares, zeros, places, dead places, largest], float64, with one more call."""
    values = output.double()
    places = values[0].numel() if values.ndim and len(values) > 1 else 0
    dead = float((values == values[:1]).all(0).sum()) if places else 0.0
    moments = [float(values.sum()), float(values.square().sum()), float((values == 0).sum())]
    counts = [1.0, float(values.numel()), *moments, float(places), dead, float(values.abs().max())]
    here = torch.tensor(counts, dtype=torch.float64)
    if before is None:
        return here
    return torch.cat([before[:-1] + here[:-1], torch.maximum(before[-1:], here[-1:])])


def summed(sums: Tensor) -> Activation:
    """The statistics of the sums of `merged`."""
    calls, count, total, squares, zeros, places, dead, largest = sums.tolist()
    mean = total / count
    std = math.sqrt(max(0.0, squares / count - mean**2)) if math.isfinite(squares) else math.nan
    return Activation(mean, std, largest, zeros / count, dead / places if places else None, int(calls))


SHARE = 0.01
"""Of the norm of x_t: by so much the input is changed."""


@dataclass(frozen=True)
class Sensitivity:
    """How much a denoiser's answer reacts at each log-SNR, rising; None where the path does not reach it.

    `time`: the change of x̂0 for one nat of log-SNR, x held fixed. `output`: that of the model's own output F, which is
    0 at every level for a network that does not use the time, while x̂0 still moves by the path's algebra; None too for
    a denoiser without F. `input`: the change of x̂0 for a random change of x by 1. All are root mean squares per value.
    """

    log_snr: list[float]
    time: list[float | None]
    output: list[float | None]
    input: list[float | None]


def sensitivity(
    denoiser: Denoiser,
    x0: Float[Tensor, "n *d"],
    cond: Cond,
    *,
    seed: int = 0,
    bins: int = BINS,
    nats: float = 0.5,
) -> Sensitivity:
    """Central differences around x_t = α·x0 + σ·ε, ε seeded per sample, at `bins` noise levels.

    Over ± nats/2 of log-SNR for the time, and over ± SHARE of the norm √(α² + σ²) in a Gaussian direction v for the
    input: rms(J·v), whose mean square over v is ‖J‖²_F/d. Five or six calls a level, in evaluation mode.
    """
    noise, found = Noise.of(seed, len(x0)), Sensitivity(centres(bins), [], [], [])
    eps, v = noise(0, x0), noise(1, x0)
    with torch.no_grad(), evaluating(denoiser):
        for log_snr in found.log_snr:
            now, late, soon = (where(denoiser.path, (log_snr + step) / 2) for step in (0.0, nats / 2, -nats / 2))
            row: tuple[float | None, ...] = (None,) * 3
            if math.isclose(late.lam - soon.lam, nats / 2, rel_tol=1e-3):
                x, t = now.mix(x0, eps), now.shared(len(x0))
                times, h = (late.shared(len(x0)), soon.shared(len(x0))), SHARE * now.norm
                moved = rms(denoiser(x, times[0], cond) - denoiser(x, times[1], cond)) / nats
                output = None
                if isinstance(denoiser, Predictor):
                    output = rms(denoiser.raw(x, times[0], cond) - denoiser.raw(x, times[1], cond)) / nats
                pushed = rms(denoiser(x + h * v, t, cond) - denoiser(x - h * v, t, cond)) / (2 * h)
                row = (moved, output, pushed)
            for values, value in zip((found.time, found.output, found.input), row, strict=True):
                values.append(value)
    return found


def rms(x: Tensor) -> float:
    """The root mean square of all values."""
    return math.sqrt(float(x.double().square().mean()))


@dataclass(frozen=True)
class Passage:
    """A layer through which all goes that a network learns of its input, and how many numbers of a sample fit through.

    The Jacobian of the network's answer has no higher rank than that.
    """

    layer: str
    numbers: int


SPARE = 2
"""Of a layer with more than so many times the outputs that would do, it is not asked how many are independent."""

NOUGHT = 1e-5
"""A singular value of a weight below this share of its largest is 0, to within rounding."""


def narrowest(
    network: nn.Module, ask: Callable[[Float[Tensor, "b *d"]], Tensor], x: Float[Tensor, "b *d"]
) -> Passage | None:
    """The narrowest layer that nothing gets around, if it is narrower than x; None where there is none.

    `ask` is the network with all but x settled. What fits through a layer is as many numbers as it puts out for
    a sample; of a linear map or a convolution, at each place as many as the rank of its weight. Nothing gets around
    a layer if the answer no longer depends on x when the layer's output is cut from the graph of derivatives: skips and
    parallel ways count, whatever kind of network it is. One call, and one for each layer that may be narrow.
    """
    x, counts = x.detach().requires_grad_(), dict[str, int]()
    needed, layers = x[:1].numel(), {name: layer for name, layer in network.named_modules() if name}

    def see(name: str, output: Any) -> None:
        if isinstance(output, Tensor) and output.requires_grad:
            counts[name] = counts.get(name, 0) + output.numel() // len(output)

    with evaluating(network), derivatives_of_input(network):
        with ExitStack() as stack:
            for name, layer in layers.items():
                hook = layer.register_forward_hook(lambda _layer, _inputs, output, name=name: see(name, output))
                stack.callback(hook.remove)
            if not ask(x).requires_grad:
                return None
        limits = {name: SPARE * needed if isinstance(layers[name], LINEAR) else needed - 1 for name in counts}
        only = [name for name in counts if counts[name] <= limits[name] and not around(layers[name], ask, x)]
    passages = [Passage(name, independent(layers[name], counts[name])) for name in only]
    return min((each for each in passages if each.numbers < needed), key=lambda each: each.numbers, default=None)


LINEAR = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


@contextmanager
def derivatives_of_input(network: nn.Module) -> Iterator[None]:
    """Gradients on, but for the parameters: what needs one then depends on the input."""
    with differentiable(network) as parameters, torch.enable_grad():
        for parameter in parameters:
            parameter.requires_grad_(False)
        yield


def around(layer: nn.Module, ask: Callable[[Tensor], Tensor], x: Tensor) -> bool:
    """Whether the answer depends on x by another way than this layer."""
    hook = layer.register_forward_hook(
        lambda _layer, _inputs, output: output.detach() if isinstance(output, Tensor) else output
    )
    try:
        return ask(x).requires_grad
    finally:
        hook.remove()


def independent(layer: nn.Module, count: int) -> int:
    """How many of the `count` numbers that a layer puts out for a sample are independent, by the rank of its weight.

    All of a weight of zeros, the function that many networks begin as.
    """
    if not isinstance(layer, LINEAR):
        return count
    sizes = torch.linalg.svdvals(layer.weight.detach().flatten(1).float())
    rank = int((sizes > NOUGHT * sizes[0]).sum())
    return count // len(layer.weight) * rank if rank else count
