# SPDX-License-Identifier: Apache-2.0
"""What stands in the place of attention: softmax attention within windows and sinks, the mLSTM, and their mixture.

Letters in shapes: B sequences, T tokens of this call, L tokens that are visible to it, H query heads, KV key/value
heads, d head dimension, n features, D model width.
"""

import math
from dataclasses import dataclass
from typing import Optional

import torch
import torch.nn.functional as F
from torch import nn

CHUNK = 64  # tokens that the mLSTM takes at once; the result does not depend on it beyond rounding
NEVER = -1e30  # log of a gate that is shut: finite, so that differences of two of them are defined


def widen(x):
    """At least float32: what gates, states and norms are computed in."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


@dataclass
class Positions:
    """Where the tokens of one call lie in their sequences.

    index: [B, T], the number of tokens before each one, padding not counted.
    real: [B, T], false for padding; None when there is none.
    """

    index: torch.Tensor
    real: Optional[torch.Tensor] = None


class LayerState:
    """What one layer carries from call to call; its size does not grow unless a key/value head sees everything.

    Local branch: keys and values [B, KV, L, d] that later tokens may see, with their `Positions`.
    mLSTM: memory S [B, H, n, d], normaliser z [B, H, n] and running maximum m [B, H], at least float32.
    """

    def __init__(self):
        self.keys = self.values = self.positions = self.mlstm = None

    def extend(self, keys, values, positions):
        """Adds the tokens of a call and gives all that is held."""
        if self.keys is not None:
            past = self.positions
            keys = torch.cat([self.keys, keys], dim=2)
            values = torch.cat([self.values, values], dim=2)
            real = None
            if past.real is not None or positions.real is not None:
                real = torch.cat([_all_real(past), _all_real(positions)], dim=1)
            positions = Positions(torch.cat([past.index, positions.index], dim=1), real)
        self.keys, self.values, self.positions = keys, values, positions
        return keys, values, positions

    def drop_unseen(self, windows, sinks):
        """Forgets the tokens that no later one can see, in any head of any sequence."""
        if 0 in windows:
            return
        index, real = self.positions.index, _all_real(self.positions)
        last = index.masked_fill(~real, -1).amax(dim=1, keepdim=True)
        seen = real & ((index > last + 1 - max(windows)) | (index < sinks))
        kept = seen.any(dim=0).nonzero().squeeze(1)
        self.keys, self.values = self.keys[:, :, kept], self.values[:, :, kept]
        real = None if self.positions.real is None else self.positions.real[:, kept]
        self.positions = Positions(index[:, kept], real)

    def reorder(self, order):
        """Takes the sequences in another order, as beam search asks for."""
        if self.keys is not None:
            self.keys, self.values = self.keys[order], self.values[order]
            real = None if self.positions.real is None else self.positions.real[order]
            self.positions = Positions(self.positions.index[order], real)
        if self.mlstm is not None:
            self.mlstm = tuple(part[order] for part in self.mlstm)


def _all_real(positions):
    return torch.ones_like(positions.index, dtype=torch.bool) if positions.real is None else positions.real


def repeat_heads(x, heads):
    """[B, KV, T, d] -> [B, H, T, d]: each key/value head for the query heads that read it."""
    return x if x.shape[1] == heads else x.repeat_interleave(heads // x.shape[1], dim=1)


def visible_tokens(queries, keys, windows, sinks):
    """Which keys each query sees: s <= t and (t - s < window or s < sinks), where a window of 0 is unlimited.

    Returns bool [B, 1 or KV, T, L]; the last T keys are the queries' own. A token always sees itself, also padding.
    """
    count, total = queries.index.shape[1], keys.index.shape[1]
    column = torch.arange(total, device=keys.index.device)
    row = torch.arange(total - count, total, device=keys.index.device)
    own = column == row[:, None]  # [T, L]
    allowed = column <= row[:, None]
    if keys.real is not None:
        allowed = allowed & keys.real[:, None, :]
    distance = queries.index[:, :, None] - keys.index[:, None, :]  # [B, T, L]
    sink = keys.index[:, None, :] < sinks
    masks = []
    for window in sorted(set(windows)) if len(set(windows)) == 1 else windows:
        near = torch.ones_like(sink) if window == 0 else (distance < window) | sink
        masks.append((allowed & near) | own)
    return torch.stack(masks, dim=1)


def local_branch(q, k, v, positions, windows, sinks, state=None):
    """Softmax attention of q [B, H, T, d] on k, v [B, KV, T, d] within the windows, one a key/value head."""
    keys = positions
    if state is not None:
        k, v, keys = state.extend(k, v, positions)
    heads = q.shape[1]
    visible = visible_tokens(positions, keys, windows, sinks)
    if visible.shape[1] > 1:
        visible = repeat_heads(visible, heads)
    out = F.scaled_dot_product_attention(q, repeat_heads(k, heads), repeat_heads(v, heads), attn_mask=visible)
    if state is not None:
        state.drop_unseen(windows, sinks)
    return out


def mlstm(q, k, v, input_gate, log_forget, floored, state=None):
    """The matrix memory of an xLSTM over a sequence, chunk by chunk.

        S_t = f_t S_(t-1) + i_t k_t^T v_t,  z_t = f_t z_(t-1) + i_t k_t,  h_t = q_t S_t / (q_t . z_t)

    q, k [B, H, T, n]; v [B, H, T, d]; input_gate (log of i) and log_forget (log of f) [B, H, T]. With `floored` the
    divisor is at least 1 in size. Returns h [B, H, T, d] and the state (S, z, m) after the last token.

    S and z are held divided by e^m. The running maxima carry no gradient: what they multiply, they also divide.
    """
    if state is None:
        batch, heads, _, features = q.shape
        state = (
            q.new_zeros(batch, heads, features, v.shape[-1]),
            q.new_zeros(batch, heads, features),
            q.new_full((batch, heads), NEVER),
        )
    memory, normalizer, maximum = state
    outputs = []
    for first in range(0, q.shape[2], CHUNK):
        chunk = slice(first, first + CHUNK)
        qc, kc, vc, i = q[:, :, chunk], k[:, :, chunk], v[:, :, chunk], input_gate[:, :, chunk]
        decay = log_forget[:, :, chunk].cumsum(dim=-1)  # log of the product of f since the chunk began, [B, H, L]
        # Outputs: from what the state holds, and from the chunk's own tokens up to each one.
        pairs = decay[..., :, None] - decay[..., None, :] + i[..., None, :]
        later = torch.ones(pairs.shape[-2:], dtype=torch.bool, device=q.device).triu(1)
        pairs = pairs.masked_fill(later, -math.inf)
        carried = decay + maximum[..., None]
        top = torch.maximum(carried, pairs.amax(dim=-1)).detach()
        share = torch.exp(carried - top)
        weights = torch.exp(pairs - top[..., None]) * (qc @ kc.transpose(-1, -2))
        numerator = share[..., None] * (qc @ memory) + weights @ vc
        divisor = share * (qc @ normalizer[..., None]).squeeze(-1) + weights.sum(dim=-1)
        if floored:
            divisor = torch.maximum(divisor.abs(), torch.exp(-top))
        outputs.append(numerator / divisor[..., None])
        # The state after the chunk.
        whole = decay[..., -1]
        added = whole[..., None] - decay + i
        top = torch.maximum(whole + maximum, added.amax(dim=-1)).detach()
        kept = torch.exp(whole + maximum - top)
        weighted = torch.exp(added - top[..., None])[..., None] * kc
        memory = kept[..., None, None] * memory + weighted.transpose(-1, -2) @ vc
        normalizer = kept[..., None] * normalizer + weighted.sum(dim=2)
        maximum = top
    return torch.cat(outputs, dim=2), (memory, normalizer, maximum)


class FeatureMap(nn.Module):
    """phi(u) = softmax(u A) of each head, or [softmax(u A), softmax(-u A)] of the kind "hedgehog"."""

    def __init__(self, heads, head_dim, features, kind):
        super().__init__()
        self.kind = kind
        self.weight = nn.Parameter(torch.empty(heads, head_dim, features))

    def reset_parameters(self):
        head_dim, features = self.weight.shape[1:]
        scale = 2.0 if self.kind == "hedgehog" or features != head_dim else 1.0
        with torch.no_grad():
            if features == head_dim:
                self.weight.copy_(scale * torch.eye(head_dim))
            else:
                nn.init.normal_(self.weight, std=scale / math.sqrt(head_dim))

    def forward(self, u):
        """[B, H, T, d] -> [B, H, T, n], or 2n of the kind "hedgehog"."""
        scores = widen(u) @ widen(self.weight)
        if self.kind == "hedgehog":
            return torch.cat([scores.softmax(dim=-1), (-scores).softmax(dim=-1)], dim=-1)
        return scores.softmax(dim=-1)


class HeadGate(nn.Module):
    """One gate a head and token, read from that head's [q | k | v] before the rotary embedding."""

    def __init__(self, heads, head_dim, start):
        super().__init__()
        self.start = start  # of the bias
        self.weight = nn.Parameter(torch.empty(heads, 3 * head_dim))
        self.bias = nn.Parameter(torch.empty(heads))

    def reset_parameters(self):
        nn.init.zeros_(self.weight)
        nn.init.constant_(self.bias, self.start)

    def forward(self, q, k, v):
        """q [B, H, T, d], k and v [B, KV, T, d] -> [B, H, T, 1]."""
        heads = q.shape[1]
        joined = torch.cat([q, repeat_heads(k, heads), repeat_heads(v, heads)], dim=-1)
        scores = torch.einsum("bhtc,hc->bht", widen(joined), widen(self.weight)) + widen(self.bias)[:, None]
        return scores.sigmoid()[..., None]


class TokenGate(nn.Linear):
    """One gate a head and token, read from the block's input; its bias starts evenly spread from `first` to `last`."""

    def __init__(self, width, heads, first, last):
        self.start = (first, last)
        super().__init__(width, heads)

    def reset_parameters(self):
        nn.init.zeros_(self.weight)
        with torch.no_grad():
            self.bias.copy_(torch.linspace(*self.start, self.out_features))

    def forward(self, x):
        """x [B, T, D] -> [B, H, T], before any activation."""
        return F.linear(widen(x), widen(self.weight), widen(self.bias)).transpose(1, 2)


class Xlstm(nn.Module):
    """The parameters that a layer has beyond its teacher's, and the mLSTM branch made of them."""

    def __init__(self, config, mixer, heads):
        super().__init__()
        head_dim, width = config["head_dim"], config["hidden_size"]
        self.feature_map = mixer["feature_map"]
        if self.feature_map != "none":
            self.query_features = FeatureMap(heads, head_dim, mixer["features"], self.feature_map)
            self.key_features = FeatureMap(heads, head_dim, mixer["features"], self.feature_map)
        self.input_gate = TokenGate(width, heads, 0.0, 0.0)
        self.forget_gate = TokenGate(width, heads, 3.0, 6.0)
        if mixer["kind"] == "hybrid":
            self.output_gate = HeadGate(heads, head_dim, mixer["output_gate_bias"])

    def forward(self, x, q, k, v, positions, state=None):
        """x [B, T, D], q [B, H, T, d], k and v [B, KV, T, d] -> [B, H, T, d]."""
        heads, head_dim = q.shape[1], q.shape[-1]
        k, v = repeat_heads(k, heads), widen(repeat_heads(v, heads))
        floored = self.feature_map == "none"  # raw queries and keys: q . z may be near zero
        if floored:
            q, k = widen(q) / math.sqrt(head_dim), widen(k)
        else:
            q, k = self.query_features(q), self.key_features(k)
        input_gate, log_forget = self.input_gate(x), F.logsigmoid(self.forget_gate(x))
        if positions.real is not None:  # padding writes nothing and forgets nothing, and its q . z is not 0
            padding = ~positions.real[:, None, :]
            input_gate, log_forget = input_gate.masked_fill(padding, NEVER), log_forget.masked_fill(padding, 0)
            q, k = q.masked_fill(padding[..., None], 1), k.masked_fill(padding[..., None], 1)
        out, carried = mlstm(q, k, v, input_gate, log_forget, floored, None if state is None else state.mlstm)
        if state is not None:
            state.mlstm = carried
        return out
