# SPDX-License-Identifier: Apache-2.0
"""A hybrid xLSTM student in PyTorch: a transformer whose attention blocks became windows, mLSTMs, or both with a gate.

The families Llama, Qwen2, Qwen3, Olmo2 and Olmo3 differ by switches of the config. Everything can be trained. The cache
of `generate` holds, for each layer, the last tokens of its windows, its sinks and the state of its mLSTM.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn
from transformers import GenerationMixin, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast

from .configuration_xhybrid import XhybridConfig
from .mixers_xhybrid import FeatureMap, HeadGate, LayerState, Positions, TokenGate, Xlstm, local_branch, widen


class XhybridCache:
    """What a model carries between calls: a `LayerState` a layer, and which tokens came before."""

    is_compileable = False

    def __init__(self, layers):
        self.layers = [LayerState() for _ in range(layers)]
        self.seen = 0

    def get_seq_length(self, layer_idx=0):
        """Tokens that were given so far, padding included."""
        return self.seen

    def reorder_cache(self, beam_idx):
        for layer in self.layers:
            layer.reorder(beam_idx)


def rope_frequencies(rope, head_dim):
    """Radians a token of every pair of dimensions, float64 [d/2], and what multiplies cosines and sines."""
    pairs = torch.arange(head_dim // 2, dtype=torch.float64)
    frequency = rope["theta"] ** (-2 * pairs / head_dim)
    kind = rope["type"]
    if kind == "default":
        return frequency, 1.0
    slowed = frequency / rope["factor"]
    if kind == "linear":
        return slowed, 1.0
    if kind == "llama3":  # many turns over the original context are kept, few are slowed
        low, high = rope["low_freq_factor"], rope["high_freq_factor"]
        turns = rope["original_context"] * frequency / (2 * math.pi)
        kept = ((turns - low) / (high - low)).clamp(0, 1)
        return (1 - kept) * slowed + kept * frequency, 1.0
    if kind == "yarn":  # the same idea with a ramp over the pairs, between two numbers of turns
        low, high = (
            head_dim * math.log(rope["original_context"] / (turns * 2 * math.pi)) / (2 * math.log(rope["theta"]))
            for turns in (rope["beta_fast"], rope["beta_slow"])
        )
        if rope["truncate"]:
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, head_dim - 1)
        if low == high:
            high += 0.001
        slow = ((pairs - low) / (high - low)).clamp(0, 1)
        return slow * slowed + (1 - slow) * frequency, rope["attention_factor"]
    raise ValueError(f'rope type is "{kind}"; known: default, linear, llama3, yarn')


def rope_table(rope, head_dim, index):
    """Cosines and sines of the positions `index` [B, T]: float32 [B, 1, T, d/2] each."""
    frequency, scale = rope_frequencies(rope, head_dim)
    exact = torch.float32 if index.device.type == "mps" else torch.float64
    angle = index[:, None, :, None].to(exact) * frequency.to(exact).to(index.device)
    return (scale * angle.cos()).float(), (scale * angle.sin()).float()


def rotate(x, table):
    """Rotary embedding of x [B, heads, T, d]; dimension i turns with dimension i + d/2."""
    cos, sin = table
    first, second = widen(x).chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1).to(x.dtype)


def pick_heads(x, heads):
    """Some of the heads of x [B, heads, T, d]; x itself where they are all of them."""
    return x if len(heads) == x.shape[1] else x[:, heads]


class XhybridRMSNorm(nn.Module):
    def __init__(self, width, eps):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x):
        wide = widen(x)
        wide = wide * torch.rsqrt(wide.square().mean(dim=-1, keepdim=True) + self.eps)
        return (widen(self.weight) * wide).to(x.dtype)


class XhybridMLP(nn.Module):
    def __init__(self, config):
        super().__init__()
        width, inner, bias = config["hidden_size"], config["intermediate_size"], config["mlp_bias"]
        self.gate_proj = nn.Linear(width, inner, bias=bias)
        self.up_proj = nn.Linear(width, inner, bias=bias)
        self.down_proj = nn.Linear(inner, width, bias=bias)

    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class XhybridMixer(nn.Module):
    """The teacher's projections around one of the mixers "hybrid", "attention", "window" and "mlstm"."""

    def __init__(self, config, layer):
        super().__init__()
        mixer = config["mixers"][layer]
        self.kind = mixer["kind"]
        if self.kind not in ("hybrid", "attention", "window", "mlstm"):
            raise ValueError(f'layer {layer}: mixer is "{self.kind}"; known: hybrid, attention, window, mlstm')
        self.heads, self.kv_heads, self.head_dim = config["heads"], config["kv_heads"], config["head_dim"]
        self.windows = [0] * self.kv_heads if self.kind == "attention" else mixer.get("windows")
        self.sinks = mixer.get("sinks", 0)
        width, bias, eps = config["hidden_size"], config["qkv_bias"], config["norm_eps"]
        inner, kv_inner = self.heads * self.head_dim, self.kv_heads * self.head_dim
        self.q_proj = nn.Linear(width, inner, bias=bias)
        self.k_proj = nn.Linear(width, kv_inner, bias=bias)
        self.v_proj = nn.Linear(width, kv_inner, bias=bias)
        self.o_proj = nn.Linear(inner, width, bias=config["output_bias"])
        self.qk_norm = config.get("qk_norm", "none")
        if self.qk_norm not in ("none", "head", "full"):
            raise ValueError(f'qk_norm is "{self.qk_norm}"; known: none, head, full')
        if self.qk_norm != "none":
            by_head = self.qk_norm == "head"
            self.q_norm = XhybridRMSNorm(self.head_dim if by_head else inner, eps)
            self.k_norm = XhybridRMSNorm(self.head_dim if by_head else kv_inner, eps)
        if self.kind in ("hybrid", "mlstm"):
            self.mixed_kv, self.mixed = self._mixed_heads()
            self.xlstm = Xlstm(config, mixer, len(self.mixed))

    def _mixed_heads(self):
        """The key/value and query heads that have an mLSTM: not those that a hybrid layer keeps at unlimited window."""
        group = self.heads // self.kv_heads
        mixed_kv = [head for head in range(self.kv_heads) if self.kind == "mlstm" or self.windows[head] > 0]
        return mixed_kv, [head * group + i for head in mixed_kv for i in range(group)]

    def _project(self, x):
        """q [B, H, T, d] and k, v [B, KV, T, d], normalised as the family does."""

        def split(rows, heads):
            return rows.unflatten(-1, (heads, self.head_dim)).transpose(1, 2)

        q, k, v = self.q_proj(x), self.k_proj(x), split(self.v_proj(x), self.kv_heads)
        if self.qk_norm == "full":
            q, k = self.q_norm(q), self.k_norm(k)
        q, k = split(q, self.heads), split(k, self.kv_heads)
        if self.qk_norm == "head":
            q, k = self.q_norm(q), self.k_norm(k)
        return q, k, v

    def forward(self, x, table, positions, state=None):
        """x [B, T, D] -> [B, T, D]."""
        plain_q, plain_k, v = self._project(x)
        q, k = rotate(plain_q, table), rotate(plain_k, table)
        if self.kind == "mlstm":
            out = self.xlstm(x, q, k, v, positions, state)
        else:
            out = local_branch(q, k, v, positions, self.windows, self.sinks, state)
        if self.kind == "hybrid":
            plain_q, q, local = (pick_heads(part, self.mixed) for part in (plain_q, q, out))
            plain_k, k, v = (pick_heads(part, self.mixed_kv) for part in (plain_k, k, v))
            gate = self.xlstm.output_gate(plain_q, plain_k, v)
            both = gate * self.xlstm(x, q, k, v, positions, state) + (1 - gate) * local
            if len(self.mixed) < self.heads:
                both = out.to(both.dtype).index_copy(1, torch.tensor(self.mixed, device=out.device), both)
            out = both
        return self.o_proj(out.to(x.dtype).transpose(1, 2).flatten(2))


class XhybridBlock(nn.Module):
    """Mixer and MLP around the residual stream, normalised before ("pre") or after ("post") each of them."""

    def __init__(self, config, layer):
        super().__init__()
        width, eps = config["hidden_size"], config["norm_eps"]
        self.self_attn = XhybridMixer(config, layer)
        self.mlp = XhybridMLP(config)
        self.placement = config.get("norm_placement", "pre")
        if self.placement not in ("pre", "post"):
            raise ValueError(f'norm_placement is "{self.placement}"; known: pre, post')
        self.post_attention_layernorm = XhybridRMSNorm(width, eps)
        if self.placement == "pre":
            self.input_layernorm = XhybridRMSNorm(width, eps)
        else:
            self.post_feedforward_layernorm = XhybridRMSNorm(width, eps)

    def forward(self, x, table, positions, state=None):
        if self.placement == "pre":
            x = x + self.self_attn(self.input_layernorm(x), table, positions, state)
            return x + self.mlp(self.post_attention_layernorm(x))
        x = x + self.post_attention_layernorm(self.self_attn(x, table, positions, state))
        return x + self.post_feedforward_layernorm(self.mlp(x))


class XhybridPreTrainedModel(PreTrainedModel):
    config_class = XhybridConfig
    base_model_prefix = "model"
    _no_split_modules = ["XhybridBlock"]
    _supports_sdpa = True
    _is_stateful = True  # what an mLSTM read cannot be taken back, as speculative decoding would ask for

    def _init_weights(self, module):
        std = getattr(self.config, "initializer_range", 0.02)
        if isinstance(module, (FeatureMap, HeadGate, TokenGate)):
            module.reset_parameters()  # what a student begins with before it is aligned with its teacher
        elif isinstance(module, (nn.Linear, nn.Embedding)):
            nn.init.normal_(module.weight, std=std)
            if getattr(module, "bias", None) is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, XhybridRMSNorm):
            nn.init.ones_(module.weight)


class XhybridModel(XhybridPreTrainedModel):
    """Embeddings, blocks and the final norm."""

    def __init__(self, config):
        super().__init__(config)
        parts = config.xhybrid
        self.embed_tokens = nn.Embedding(parts["vocab_size"], parts["hidden_size"])
        self.layers = nn.ModuleList([XhybridBlock(parts, layer) for layer in range(parts["layer_count"])])
        self.norm = XhybridRMSNorm(parts["hidden_size"], parts["norm_eps"])
        self.post_init()

    def get_input_embeddings(self):
        return self.embed_tokens

    def set_input_embeddings(self, value):
        self.embed_tokens = value

    def _positions(self, shape, device, attention_mask, position_ids, seen):
        """`Positions` of the tokens of this call; `attention_mask` [B, seen + T] has zeros at padding."""
        batch, count = shape
        real = None
        if attention_mask is not None:
            if tuple(attention_mask.shape) != (batch, seen + count):
                raise ValueError(
                    f"attention_mask has shape {tuple(attention_mask.shape)}; allowed: ({batch}, {seen + count}), "
                    "the tokens of this call and those before it"
                )
            if not attention_mask.bool().all():
                real = attention_mask.bool()
        if position_ids is not None:
            index = position_ids.expand(batch, count)
        elif real is not None:
            index = (real.long().cumsum(dim=1) - 1).clamp(min=0)[:, seen:]
        else:
            index = torch.arange(seen, seen + count, device=device).expand(batch, count)
        return Positions(index, None if real is None else real[:, seen:])

    def forward(
        self,
        input_ids=None,
        attention_mask=None,
        position_ids=None,
        past_key_values=None,
        inputs_embeds=None,
        use_cache=None,
        output_hidden_states=None,
        **kwargs,
    ):
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give either input_ids or inputs_embeds")
        x = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        if use_cache and past_key_values is None:
            past_key_values = XhybridCache(len(self.layers))
        cache = past_key_values
        positions = self._positions(x.shape[:2], x.device, attention_mask, position_ids, cache.seen if cache else 0)
        parts = self.config.xhybrid
        tables = {"rope": rope_table(parts["rope"], parts["head_dim"], positions.index)}
        sliding = parts.get("sliding_layers") or []
        if parts.get("sliding_rope") and sliding:
            tables["sliding"] = rope_table(parts["sliding_rope"], parts["head_dim"], positions.index)
        hidden = [x]
        for layer, block in enumerate(self.layers):
            table = tables["sliding"] if "sliding" in tables and layer in sliding else tables["rope"]
            x = block(x, table, positions, cache.layers[layer] if cache else None)
            hidden.append(x)
        hidden[-1] = x = self.norm(x)
        if cache:
            cache.seen += x.shape[1]
        return BaseModelOutputWithPast(
            last_hidden_state=x,
            past_key_values=cache,
            hidden_states=tuple(hidden) if output_hidden_states else None,
        )


class XhybridForCausalLM(XhybridPreTrainedModel, GenerationMixin):
    """The model with its head; `labels` give the loss of predicting each next token, -100 is passed over."""

    # Read as a list of names by transformers 4, as names and what they are tied to by transformers 5.
    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}

    def __init__(self, config):
        super().__init__(config)
        self.model = XhybridModel(config)
        self.lm_head = nn.Linear(config.xhybrid["hidden_size"], config.xhybrid["vocab_size"], bias=False)
        self.post_init()

    def get_input_embeddings(self):
        return self.model.embed_tokens

    def set_input_embeddings(self, value):
        self.model.embed_tokens = value

    def get_output_embeddings(self):
        return self.lm_head

    def set_output_embeddings(self, value):
        self.lm_head = value

    def forward(
        self,
        input_ids=None,
        attention_mask=None,
        position_ids=None,
        past_key_values=None,
        inputs_embeds=None,
        labels=None,
        use_cache=None,
        output_hidden_states=None,
        logits_to_keep=0,
        return_dict=None,
        num_items_in_batch=None,
        **kwargs,
    ):
        output = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            output_hidden_states=output_hidden_states,
        )
        rows = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(output.last_hidden_state[:, rows, :])
        loss = None
        if labels is not None:
            reduction = "mean" if num_items_in_batch is None else "sum"
            scores, wanted = widen(logits[:, :-1]).flatten(0, 1), labels[:, 1:].flatten().to(logits.device)
            loss = F.cross_entropy(scores, wanted, ignore_index=-100, reduction=reduction)
            if num_items_in_batch is not None:
                loss = loss / num_items_in_batch
        result = CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            past_key_values=output.past_key_values,
            hidden_states=output.hidden_states,
        )
        return result.to_tuple() if return_dict is False else result

    def _prepare_cache_for_generation(self, generation_config, model_kwargs, *args, **kwargs):
        if generation_config.use_cache and model_kwargs.get("past_key_values") is None:
            model_kwargs["past_key_values"] = XhybridCache(len(self.model.layers))

    @staticmethod
    def _reorder_cache(past_key_values, beam_idx):
        past_key_values.reorder_cache(beam_idx)
        return past_key_values

    def prepare_inputs_for_generation(self, input_ids, past_key_values=None, attention_mask=None, **kwargs):
        """The tokens that the cache has not seen."""
        seen = 0 if past_key_values is None else past_key_values.get_seq_length()
        inputs = {"input_ids": input_ids[:, seen:], "attention_mask": attention_mask}
        if kwargs.get("inputs_embeds") is not None and seen == 0:
            inputs = {"inputs_embeds": kwargs["inputs_embeds"], "attention_mask": attention_mask}
        return {
            **inputs,
            "past_key_values": past_key_values,
            "use_cache": past_key_values is not None,
            "logits_to_keep": kwargs.get("logits_to_keep", 0),
        }
