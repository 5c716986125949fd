"""Cycles of load, generate and free hold memory flat. XHYBRID_LEAK_CYCLES: how many (default 60; the long form 10000)."""

import gc
import json
import os
import pathlib
import shutil

import numpy as np
import pytest
from conftest import SOURCE, recipe

import xhybrid

CYCLES = int(os.environ.get("XHYBRID_LEAK_CYCLES", "60"))
ALLOWED = 2 << 20  # what the allocator may keep back: 200 bytes a cycle of the long form

CONFIG = {
    "num_hidden_layers": 1,
    "hidden_size": 64,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 32,
    "intermediate_size": 64,
}


def write_safetensors(path, tensors):
    header, offset = {}, 0
    for name, array in tensors.items():
        header[name] = {"dtype": "F32", "shape": array.shape, "data_offsets": [offset, offset + array.nbytes]}
        offset += array.nbytes
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"".join(array.tobytes() for array in tensors.values()))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A student of one layer with random weights: a cycle takes milliseconds, and what it leaks is the same."""
    directory = tmp_path_factory.mktemp("tiny")
    example = SOURCE / "examples/teacher-llama-3m"
    for file in ("tokenizer.model", "tokenizer_config.json"):
        shutil.copy(example / file, directory)
    config = {**json.loads((example / "config.json").read_text()), **CONFIG}
    (directory / "config.json").write_text(json.dumps(config))
    hidden, inner, vocab = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    heads, kv_heads = (config[key] * config["head_dim"] for key in ("num_attention_heads", "num_key_value_heads"))
    block = {
        "input_layernorm": (hidden,),
        "self_attn.q_proj": (heads, hidden),
        "self_attn.k_proj": (kv_heads, hidden),
        "self_attn.v_proj": (kv_heads, hidden),
        "self_attn.o_proj": (hidden, heads),
        "post_attention_layernorm": (hidden,),
        "mlp.gate_proj": (inner, hidden),
        "mlp.up_proj": (inner, hidden),
        "mlp.down_proj": (hidden, inner),
    }
    shapes = {f"model.layers.0.{name}.weight": shape for name, shape in block.items()}
    shapes |= {"model.embed_tokens.weight": (vocab, hidden), "model.norm.weight": (hidden,)}
    if not config["tie_word_embeddings"]:
        shapes["lm_head.weight"] = (vocab, hidden)
    random = np.random.default_rng(1)
    tensors = {name: random.normal(0, 0.05, shape).astype(np.float32) for name, shape in shapes.items()}
    write_safetensors(directory / "model.safetensors", tensors)
    xhybrid.distill(recipe(directory, directory / "run", stages=[{"stage": "align", "steps": 1}]), progress=False)
    return directory / "run" / "student.xhy"


def resident():
    gc.collect()
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def cycle(student):
    with xhybrid.Runtime(threads=1) as runtime:
        model = xhybrid.Model.load(student, runtime=runtime)
        model.generate("Once", max_tokens=3, capacity=64)
        session = model.session(capacity=64)
        session.feed(model.encode("a b c"))
        fork = session.fork()
        fork.restore(session.snapshot())
        with model.batch(slots=2, capacity=64) as batch:
            batch.put(0, fork)
            batch.next()
        session.logits()
        model.score([1, 2, 3])
        view = np.from_dlpack(xhybrid.Checkpoint.open(student, runtime=runtime)["model.norm.weight"])
        assert view.size
        xhybrid.export(student, dry_run=True, progress=False, runtime=runtime)
        try:
            model.forward([-1])
        except xhybrid.InvalidArgumentError:
            pass
        del model, session  # the rest is freed by leaving


def test_cycles_hold_memory_flat(tiny, capsys):
    warm = max(20, CYCLES // 10)
    for _ in range(warm):
        cycle(tiny)
    before = resident()
    for _ in range(CYCLES):
        cycle(tiny)
    grown = resident() - before
    with capsys.disabled():
        print(f"\n{CYCLES} cycles after {warm}: {before / 1e6:.1f} MB, {grown / 1e6:+.2f} MB")
    assert grown < ALLOWED
