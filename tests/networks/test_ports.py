"""What a network is told: saying nothing is learned, padding is not heard, and what does not fit is refused by name."""

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from ebb.errors import UsageError
from ebb.networks import attention
from ebb.networks.embedder import Embedder
from ebb.networks.mlp import MLP
from ebb.networks.ports import NumbersEmbedding, PiecesPort, ShareEmbedding, StatesPort
from ebb.networks.text_encoder import NEAR, Neighbours, TextEncoder, TextStates
from ebb.understand.probe import attention_maps

from .known import HEARS, NETWORKS, PIECES, REST, TEXT, lively, told, unet

TIME = torch.tensor([0.1, 0.5, 0.9])


def answer(network, cond, shape=(1, 9, 7)):
    x = torch.randn(3, *shape, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        return network(x, TIME, cond)


def lengthened(text, port, more):
    """A text with so many more rows of padding."""
    return {"text": F.pad(text, (*((0, 0) if isinstance(port, StatesPort) else ()), 0, more))}


@pytest.mark.parametrize("port", [PiecesPort(11, 9), StatesPort(6, 9)])
@pytest.mark.parametrize("kind", NETWORKS)
def test_padding_is_not_heard(kind, port, monkeypatch):
    network = lively(NETWORKS[kind](ports={"text": port}))
    cond = told(network, (1, 9, 7))
    longer = lengthened(cond["text"], port, 4)
    torch.testing.assert_close(answer(network, longer), answer(network, cond), atol=1e-5, rtol=0)
    plain = attention.attend
    monkeypatch.setattr(attention, "attend", lambda q, k, v, seen=None: plain(q, k, v))
    assert not torch.allclose(answer(network, longer), answer(network, cond), atol=1e-4), "the mutant: it is seen"


@pytest.mark.parametrize("kind", NETWORKS)
def test_a_text_is_heard_and_none_at_all_is_one_of_nothing_but_padding(kind):
    network = lively(NETWORKS[kind](ports=PIECES))
    text = told(network, (1, 9, 7))["text"]
    empty = answer(network, {"text": torch.zeros_like(text)})
    torch.testing.assert_close(answer(network, {"text": text[..., :0]}), empty, atol=1e-5, rtol=0)
    for sample, other in enumerate((answer(network, {"text": text}) - empty).abs().amax((1, 2, 3)).tolist()):
        assert (other > 1e-3) == bool(text[sample].any()), "heard wherever something is said"


def test_attention_to_a_text_can_be_watched():
    network = lively(NETWORKS["unet"](ports=PIECES))
    cond = told(network, (1, 9, 7))
    with attention_maps(network) as maps:
        answer(network, cond)
    seen = F.pad(cond["text"] > 0, (1, 0), value=True)
    for name in ("down.0.0.1.attention", "down.1.0.2.attention", "up.0.0.1.attention"):
        (shares,) = maps[name]
        torch.testing.assert_close(shares.sum(-1), torch.ones(shares.shape[:-1]))
        assert ((shares > 0) == seen[:, None, None]).all(), "what is padding has no share"


def test_pieces_hear_each_other_on_both_sides_and_know_their_order(generator):
    encoder = lively(TextEncoder(11, 5, 16))
    rows, seen, pooled = encoder(TEXT)
    assert seen.tolist() == [[True, *(piece > 0 for piece in text)] for text in TEXT.tolist()]
    torch.testing.assert_close(pooled, rows[:, 0])
    for changed in (0, 4):
        other = TEXT.clone()
        other[1, changed] = 10
        moved = (encoder(other).rows - rows).abs().amax(-1)[1]
        assert moved.min() > 1e-4, "every row of the text hears the change"
    assert not torch.allclose(encoder(TEXT[1:2].flip(1)).pooled, pooled[1:2], atol=1e-3)


def test_a_piece_hears_its_neighbours_by_the_convolution_it_says(generator):
    """Against a sum over the near rows that are seen, and a mutant that hears padding."""
    near = Neighbours(3)
    x, seen = torch.randn(2, 12, 3, generator=generator), torch.arange(12) < torch.tensor([[12], [7]])
    found = near(x, seen)
    weight, bias = near.mix.weight[:, 0].T, near.mix.bias
    for b, length in enumerate((12, 7)):
        for at in range(length):
            heard = [(at + k - NEAR, k) for k in range(2 * NEAR + 1) if 0 <= at + k - NEAR < length]
            expected = bias + sum(weight[k] * x[b, place] for place, k in heard)
            torch.testing.assert_close(found[b, at], expected)
    assert torch.equal(near(torch.where(seen[..., None], x, 9.0), seen), found)
    assert not torch.allclose(near(x, torch.ones_like(seen))[1, 5], found[1, 5])


def test_states_are_pooled_over_what_is_seen(generator):
    encoder = lively(TextStates(6, 16))
    states = torch.where(TEXT[..., None] > 0, torch.randn(4, 5, 6, generator=generator), 0.0)
    rows, seen, pooled = encoder(states)
    assert seen.tolist() == TextEncoder(11, 5, 16)(TEXT).seen.tolist()
    torch.testing.assert_close(pooled, torch.stack([row[mask].mean(0) for row, mask in zip(rows, seen, strict=True)]))
    assert not torch.allclose(pooled, rows.mean(1), atol=1e-3), "the mutant: padding is pooled too"
    torch.testing.assert_close(rows[:, 0], rows[:1, 0].expand(4, -1))


def test_a_row_of_nan_is_a_learned_vector_and_leaves_the_gradients_alone(generator):
    numbers = lively(NumbersEmbedding(2, 8))
    values = torch.tensor([[0.5, -1.0], [torch.nan, torch.nan], [0.5, torch.nan]], requires_grad=True)
    vectors = numbers(values).vector
    torch.testing.assert_close(vectors[1:], numbers.null.expand(2, -1))
    torch.testing.assert_close(vectors[:1], numbers.mlp(values[:1].detach()))
    vectors.sum().backward()
    assert all(p.grad.isfinite().all() for p in numbers.parameters())
    assert values.grad.isfinite().all()
    torch.testing.assert_close(numbers.null.grad, torch.full((8,), 2.0))
    numbers.zero_grad()
    torch.where(values.isnan().any(-1, keepdim=True), numbers.null, numbers.mlp(values)).sum().backward()
    assert numbers.mlp[0].weight.grad.isnan().any(), "the mutant: NaN goes through the MLP and is replaced afterwards"


def test_maps_stand_beside_x_with_a_learned_value_where_they_are_nan(generator):
    embedding = lively(Embedder(8, {"depth": REST["edges"]}))
    x = torch.randn(2, 1, 3, 4, generator=generator)
    image = torch.randn(2, 2, 3, 4, generator=generator)
    image[1], image[0, 0, 0, 0] = torch.nan, torch.nan
    image.requires_grad_()
    joined = embedding.join(x, {"depth": image})
    blank = embedding.maps[0].blank[:, None, None].expand(2, 3, 4)
    torch.testing.assert_close(joined[:, :1], x)
    torch.testing.assert_close(joined[1, 1:], blank)
    torch.testing.assert_close(joined[0, 1:].flatten()[1:], image[0].flatten()[1:])
    assert joined[0, 1, 0, 0] == embedding.maps[0].blank[0]
    joined.square().sum().backward()
    assert image.grad.isfinite().all()
    assert embedding.maps[0].blank.grad.isfinite().all()


@pytest.mark.parametrize("kind", NETWORKS)
def test_nan_does_not_leak(kind):
    """Only the third sample says a number and shows maps; what the others get is finite, as are all gradients."""
    network = lively(NETWORKS[kind](ports=HEARS))
    cond = told(network, (1, 9, 7))
    for name in ("numbers", "depth", "edges"):
        cond[name][:2] = torch.nan
    out = network(torch.randn(3, 1, 9, 7), TIME, cond)
    assert out.isfinite().all()
    out.square().sum().backward()
    assert all(p.grad.isfinite().all() for p in network.parameters())


def test_concepts_have_no_order_and_one_of_padding_is_none():
    network = lively(NETWORKS["concepts"](ports=PIECES))
    text = told(network, (1, 9, 7))["text"]
    torch.testing.assert_close(answer(network, {"text": text.flip(1)}), answer(network, {"text": text}))
    alone, padded = text[:, :1], torch.stack([text[:, 0], torch.zeros_like(text[:, 0])], 1)
    torch.testing.assert_close(answer(network, {"text": padded}), answer(network, {"text": alone}))
    assert not torch.allclose(answer(network, {"text": text}), answer(network, {"text": alone}), atol=1e-3)


def test_the_gate_is_the_softmax_it_says(generator):
    network = lively(NETWORKS["concepts"](ports=PIECES))
    layer, heard = network.down[1][0][-1], network.embedding(TIME, told(network, (1, 9, 7)))
    x = torch.randn(3, 16, 2, 3, generator=generator)
    rows = layer.where(layer.norm(x))
    for b, speaks in enumerate(heard.seen[..., 1:].any(-1).tolist()):
        answers = [
            layer.attention(rows[b : b + 1], heard.rows[b, k][None], heard.seen[b, k][None])[0]
            for k in range(2)
            if speaks[k]
        ]
        weights = [layer.gate(one).exp() for one in answers]
        fused = sum(w * one for w, one in zip(weights, answers, strict=True)) / (1 + sum(weights))
        torch.testing.assert_close(layer(x, heard)[b] - x[b], fused.T.reshape(16, 2, 3), atol=1e-5, rtol=1e-4)
        assert not torch.allclose(fused * (1 + sum(weights)) / sum(weights), fused, atol=1e-3), "the mutant: no none"


FITTING = {
    "text": torch.ones(3, 4, dtype=torch.int64),
    "label": torch.zeros(3, dtype=torch.int64),
    "numbers": torch.zeros(3, 2),
    "depth": torch.zeros(3, 1, 4, 4),
    "edges": torch.zeros(3, 2, 4, 4),
}
WRONG = {
    "too long a text": ({"text": torch.ones(3, 6, dtype=torch.int64)}, r"'text' is integer \[3, ≤ 5\], got int64 \[3, 6\]"),
    "a text of states": ({"text": torch.ones(3, 4)}, r"'text' is integer \[3, ≤ 5\], got float32 \[3, 4\]"),
    "another batch": ({"label": torch.zeros(2, dtype=torch.int64)}, r"'label' is integer \[3\], got int64 \[2\]"),
    "other numbers": ({"numbers": torch.zeros(3, 3)}, r"'numbers' is floating \[3, 2\], got float32 \[3, 3\]"),
    "another size": ({"edges": torch.zeros(3, 2, 5, 4)}, r"'edges' is floating \[3, 2, 4, 4\], got float32 \[3, 2, 5, 4\]"),
    "an unknown one": ({"light": torch.zeros(3, 1)}, r"takes the conditions \['depth', 'edges', .*\], got \['depth', 'edges', 'label', 'light'"),
}  # fmt: skip


@pytest.mark.parametrize("what", WRONG)
def test_what_does_not_fit_is_refused_by_name(what):
    cond, message = WRONG[what]
    network = NETWORKS["dit"](ports=HEARS)
    with pytest.raises(UsageError, match=message):
        network(torch.zeros(3, 1, 4, 4), TIME, FITTING | cond)


def test_concepts_and_states_that_do_not_fit_are_refused_by_name():
    with pytest.raises(UsageError, match=r"'text' is integer \[3, ≤ 2, ≤ 5\], got int64 \[3, 4\]"):
        NETWORKS["concepts"](ports=PIECES)(torch.zeros(3, 1, 4, 4), TIME, {"text": FITTING["text"]})
    with pytest.raises(UsageError, match=r"'text' is floating \[3, ≤ 5, 6\], got float32 \[3, 4, 7\]"):
        NETWORKS["dit"](ports={"text": StatesPort(6, 5)})(torch.zeros(3, 1, 4, 4), TIME, {"text": torch.zeros(3, 4, 7)})


def test_ports_that_cannot_be_are_refused_by_name():
    with pytest.raises(UsageError, match=r"sizes of a port are at least 1, got PiecesPort\(vocabulary=3, length=0"):
        PiecesPort(3, 0)
    with pytest.raises(UsageError, match="no port called 'clases'") as refused:
        Embedder(8, {"label": "clases(count=3)"})
    assert "did you mean 'classes'" in refused.value.hint
    with pytest.raises(UsageError, match=r"port 'vector\(\)'"):
        Embedder(8, {"numbers": "vector()"})
    with pytest.raises(UsageError, match="whole and texts in concepts"):
        Embedder(8, {"a": PiecesPort(11, 5), "b": PiecesPort(11, 5, 2)})
    with pytest.raises(UsageError, match="a dit attends to whole texts"):
        NETWORKS["dit"](ports={"text": PiecesPort(11, 5, 2)})
    with pytest.raises(UsageError, match="attends to no text"):
        MLP(2, ports=PIECES)


@pytest.mark.parametrize("kind", NETWORKS)
def test_several_of_each_kind_are_heard_by_name(kind):
    """Two labels, rows of numbers, maps and texts, of which those in concepts differ in length: each changes what is
    made, and none stands for another."""
    text, short = (PiecesPort(11, length, 2 * (kind == "concepts")) for length in (5, 3))
    ports = REST | {"style": REST["label"], "more": REST["numbers"], "text": text, "title": short}
    network = lively(NETWORKS[kind](ports=ports) if kind != "concepts" else unet(ports))
    cond = told(network, (1, 9, 7))
    cond["title"] = cond["title"][..., :3].flip(0)
    usual, changed = answer(network, cond), []
    for name in ports:
        other = cond[name].flip(0).clone()
        changed.append(answer(network, cond | {name: other.nan_to_num(0.5) if other.is_floating_point() else other}))
        assert not torch.allclose(changed[-1], usual, atol=1e-4), name
    assert not any(torch.allclose(a, b, atol=1e-5) for i, a in enumerate(changed) for b in changed[:i])


def test_a_share_that_was_saved_without_a_gain_has_none():
    layer, older = ShareEmbedding(8, gain=8.0), ShareEmbedding(8, gain=8.0)
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    older.load_state_dict({name: value for name, value in layer.state_dict().items() if name != "gain"})
    value = torch.tensor([0.0, 0.5])
    vector = layer(value).vector
    torch.testing.assert_close(vector, 8 * older(value).vector)
    assert vector[0].abs().max() < 1e-5 < vector[1].abs().max()
