"""Attention of every kind is its formula, written out one query at a time."""

import subprocess
import sys

import pytest
import torch

import ebb
from ebb.errors import UsageError
from ebb.networks import attention
from ebb.networks.attention import Attention, CrossAttention, JointAttention, attend, rescored, rotate, rotation

from .known import lively

SEEN = torch.tensor([[True, True, False], [True, False, False]])


def by_hand(q, k, v, seen, change=lambda score, b, h, n, m: score):
    """softmax(change(qkᵀ/√d))v over the keys seen, for every sample, head and query alone: [b, n, heads·d]."""
    rows = torch.empty(q.shape[0], q.shape[2], q.shape[1], q.shape[3])
    for b, h, n in torch.cartesian_prod(*(torch.arange(size) for size in q.shape[:3])).tolist():
        at = torch.arange(k.shape[2])[seen[b]]
        score = torch.stack([change(q[b, h, n] @ k[b, h, m] / q.shape[3] ** 0.5, b, h, n, m) for m in at])
        weight = score.exp() / score.exp().sum()
        rows[b, n, h] = sum(w * value for w, value in zip(weight, v[b, h][seen[b]], strict=True))
    return rows.flatten(2)


def split(x, parts, heads):
    """[b, n, parts·w] → parts of [b, heads, n, w/heads]."""
    return [part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in x.chunk(parts, -1)]


def unit(x, norm):
    """x/rms(x)·weight."""
    return norm.weight * x / (x.square().mean(-1, keepdim=True) + torch.finfo(x.dtype).eps).sqrt()


def test_attention_equals_its_formula(generator):
    layer = lively(Attention(8, head=4))
    x = torch.randn(2, 3, 8, generator=generator)
    q, k, v = split(layer.qkv(x), 3, 2)
    q, k = unit(q, layer.norm_q), unit(k, layer.norm_k)
    whole = layer.out(by_hand(q, k, v, torch.ones(2, 3, dtype=torch.bool)))
    torch.testing.assert_close(layer(x), whole, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(layer(x, seen=SEEN), layer.out(by_hand(q, k, v, SEEN)), atol=1e-5, rtol=1e-5)
    assert not torch.allclose(layer(x, seen=SEEN), whole, atol=1e-3), "the mutant: a mask that is not used"


def test_cross_attention_equals_its_formula(generator):
    layer = lively(CrossAttention(8, 6, head=4))
    x, rows = torch.randn(2, 4, 8, generator=generator), torch.randn(2, 3, 6, generator=generator)
    (q,), (k, v) = split(layer.q(x), 1, 2), split(layer.rows.kv(rows), 2, 2)
    q, k = unit(q, layer.norm_q), unit(k, layer.rows.norm_k)
    answer = layer(x, rows, SEEN)
    torch.testing.assert_close(answer, layer.out(by_hand(q, k, v, SEEN)), atol=1e-5, rtol=1e-5)
    turn = rotation((2, 2), 4, torch.device("cpu"))
    turned = layer.out(by_hand(rotate(q, turn), k, v, SEEN))
    torch.testing.assert_close(layer(x, rows, SEEN, turn), turned, atol=1e-5, rtol=1e-5)
    for mutant in ((q, k, v, ~SEEN), (q, v, k, SEEN), (k[:, :, [0, 1, 2, 0]], q[:, :, :3], v, SEEN)):
        assert not torch.allclose(answer, layer.out(by_hand(*mutant)), atol=1e-3)


@pytest.mark.parametrize("last", [False, True])
def test_joint_attention_equals_its_formula(last, generator):
    layer = lively(JointAttention(8, head=4, last=last))
    text, data = torch.randn(2, 3, 8, generator=generator), torch.randn(2, 4, 8, generator=generator)
    turn = rotation((2, 2), 4, torch.device("cpu"))
    every = torch.cat([SEEN, torch.ones(2, 4, dtype=torch.bool)], 1)
    q, k, v = split(layer.data.qkv(data), 3, 2)
    q, k = rotate(unit(q, layer.data.norm_q), turn), rotate(unit(k, layer.data.norm_k), turn)
    *asked, of_text, said = split(layer.text.kv(text) if last else layer.text.qkv(text), 2 if last else 3, 2)
    keys = [unit(of_text, layer.text.norm_k), k]
    queries = [*(unit(part, layer.text.norm_q) for part in asked), q]

    def formula(queries, keys, values, seen):
        return by_hand(torch.cat(queries, 2), torch.cat(keys, 2), torch.cat(values, 2), seen)

    told, gathered = layer(text, data, every, turn)
    mixed = formula(queries, keys, [said, v], every)
    torch.testing.assert_close(gathered, layer.data.out(mixed[:, -4:]), atol=1e-5, rtol=1e-5)
    if last:
        assert told is None
    else:
        torch.testing.assert_close(told, layer.text.out(mixed[:, :3]), atol=1e-5, rtol=1e-5)
    deaf = by_hand(q, k, v, every[:, 3:])
    swapped, flipped = formula(queries, [said, v], keys, every), formula(queries, keys, [said, v], every.flip(1))
    for mutant in (deaf, swapped, flipped):
        assert not torch.allclose(gathered, layer.data.out(mutant[:, -4:]), atol=1e-3)


def test_scores_are_changed_in_every_attention_and_only_while_it_lasts(generator):
    """A bias by distance and head, against the formula; without it, and where it reaches unseen keys, it is another."""
    q, k, v = (torch.randn(2, 2, 3, 4, generator=generator) for _ in range(3))

    def near(score, b, h, n, m):
        return score - (h + 1) * (n - m).abs()

    with rescored(near):
        answer, whole = attend(q, k, v, SEEN), attend(q, k, v)
    torch.testing.assert_close(answer, by_hand(q, k, v, SEEN, near), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(whole, by_hand(q, k, v, torch.ones_like(SEEN), near), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(attend(q, k, v, SEEN), by_hand(q, k, v, SEEN), atol=1e-5, rtol=1e-5)
    for mutant in (whole, by_hand(q, k, v, SEEN), by_hand(q, k, v, SEEN, lambda *at: near(at[0], *at[2:4], *at[3:]))):
        assert not torch.allclose(answer, mutant, atol=1e-3)


COMPILED = """
import torch
from ebb.networks.attention import attend, rescored
q, k, v = torch.randn(3, 2, 2, 3, 4)
whole = torch.compile(attend, fullgraph=True, backend="eager")
torch.testing.assert_close(whole(q, k, v), attend(q, k, v))
with rescored(lambda score, b, h, i, j: score - (i - j).abs()):
    near = attend(q, k, v)
    torch.testing.assert_close(whole(q, k, v), near)
assert not torch.allclose(whole(q, k, v), near, atol=1e-3)
print("equal")
"""


@pytest.mark.full
def test_attention_compiles_as_one_graph_with_changed_scores_and_without():
    """In a process of its own: what checks shapes under test is not for a compiler."""
    done = subprocess.run([sys.executable, "-c", COMPILED], capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["equal"], done.stderr[-2000:]


def test_changed_scores_are_not_watched():
    maps = ebb.attention_maps(torch.nn.Identity())
    with rescored(lambda score, *at: score), pytest.raises(UsageError, match="watched"):
        maps.__enter__()


def test_a_word_that_is_turned_down_is_not_heard():
    torch.manual_seed(0)
    layer, x, rows = lively(CrossAttention(8, 6, head=4)), torch.randn(1, 4, 8), torch.randn(1, 3, 6)
    without = torch.tensor([[True, False, True]])
    with torch.no_grad(), rescored(lambda score, b, h, n, m: torch.where(m == 1, -torch.inf, score)):
        deaf = layer(x, rows, torch.ones(1, 3, dtype=torch.bool))
    torch.testing.assert_close(deaf, layer(x, rows, without), atol=1e-5, rtol=1e-5)
    assert not torch.allclose(deaf, layer(x, rows, torch.ones(1, 3, dtype=torch.bool)), atol=1e-3)


def test_changed_scores_have_no_gradients_on_a_cpu():
    q = torch.randn(1, 1, 2, 4, requires_grad=True)
    with rescored(lambda score, *at: score), pytest.raises(UsageError, match=r"torch\.no_grad"):
        attend(q, q, q)


def test_rotation_makes_scores_depend_on_distance_only(generator):
    turn = rotation((9,), 16, torch.device("cpu"))
    q, k = torch.randn(2, 1, 16, generator=generator)
    scores = rotate(q.expand(9, 16), turn) @ rotate(k.expand(9, 16), turn).T
    torch.testing.assert_close(scores[0, 3], scores[5, 8])
    assert not torch.allclose(scores[0, 3], scores[0, 4])


def test_a_width_that_does_not_split_into_heads_is_refused():
    with pytest.raises(UsageError, match="width 10 does not split into 3 heads"):
        attention.CrossAttention(10, 4, head=3)
