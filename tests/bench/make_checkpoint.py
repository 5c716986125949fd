"""Writes a Hugging Face directory of Llama-3.1-8B's shape with random bf16 weights: python3 make_checkpoint.py DIRECTORY

Shards of at most 5 GB with an index, as such checkpoints come. Needs nothing but Python.
"""

import json
import os
import random
import struct
import sys

CONFIG = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 128256, "hidden_size": 4096,
    "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8,
    "max_position_embeddings": 131072, "rms_norm_eps": 1e-05, "rope_theta": 500000.0, "hidden_act": "silu",
    "rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                     "original_max_position_embeddings": 8192},
    "tie_word_embeddings": False, "bos_token_id": 128000, "eos_token_id": [128001, 128008, 128009],
    "torch_dtype": "bfloat16",
}
SHARD_BYTES = 5_000_000_000
BLOCK_BYTES = 64 << 20


def tensors():
    """Names and shapes, as Llama has them."""
    width, wide, vocabulary = CONFIG["hidden_size"], CONFIG["intermediate_size"], CONFIG["vocab_size"]
    keys = width // CONFIG["num_attention_heads"] * CONFIG["num_key_value_heads"]
    yield "model.embed_tokens.weight", [vocabulary, width]
    for layer in range(CONFIG["num_hidden_layers"]):
        block = f"model.layers.{layer}."
        for name, shape in (
            ("input_layernorm", [width]), ("self_attn.q_proj", [width, width]), ("self_attn.k_proj", [keys, width]),
            ("self_attn.v_proj", [keys, width]), ("self_attn.o_proj", [width, width]),
            ("post_attention_layernorm", [width]), ("mlp.gate_proj", [wide, width]), ("mlp.up_proj", [wide, width]),
            ("mlp.down_proj", [width, wide]),
        ):
            yield block + name + ".weight", shape
    yield "model.norm.weight", [width]
    yield "lm_head.weight", [vocabulary, width]


def size(shape):
    count = 2
    for extent in shape:
        count *= extent
    return count


def shards():
    """Lists of tensors, each at most SHARD_BYTES together."""
    shard, used = [], 0
    for name, shape in tensors():
        if shard and used + size(shape) > SHARD_BYTES:
            yield shard
            shard, used = [], 0
        shard.append((name, shape))
        used += size(shape)
    yield shard


def random_block():
    """Finite bf16 values below 1/8: any mantissa and sign, small exponents."""
    generator = random.Random(1)
    block = bytearray(generator.randbytes(BLOCK_BYTES))
    block[1::2] = bytes((byte & 0x80) | 0x3C | (byte & 1) for byte in block[1::2])
    return bytes(block)


def write_shard(path, shard, block):
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for name, shape in shard:
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [offset, offset + size(shape)]}
        offset += size(shape)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for start in range(0, offset, BLOCK_BYTES):
            turn = start // BLOCK_BYTES * 2 % BLOCK_BYTES  # no two blocks alike
            file.write((block[turn:] + block[:turn])[: min(BLOCK_BYTES, offset - start)])


def main(directory):
    os.makedirs(directory, exist_ok=True)
    lists, weight_map, total = list(shards()), {}, 0
    block = random_block()
    for number, shard in enumerate(lists, 1):
        name = f"model-{number:05}-of-{len(lists):05}.safetensors"
        write_shard(os.path.join(directory, name), shard, block)
        for tensor, shape in shard:
            weight_map[tensor] = name
            total += size(shape)
    with open(os.path.join(directory, "model.safetensors.index.json"), "w") as file:
        json.dump({"metadata": {"total_size": total}, "weight_map": weight_map}, file)
    with open(os.path.join(directory, "config.json"), "w") as file:
        json.dump(CONFIG, file)
    print(f"{directory}: {total / 1e9:.1f} GB in {len(lists)} shards")


if __name__ == "__main__":
    main(sys.argv[1])
