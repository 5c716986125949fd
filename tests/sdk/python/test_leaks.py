"""Cycles of load, generate and free hold memory flat. XHYBRID_LEAK_CYCLES: how many (default 60; the long form 10000)."""

import gc
import os
import pathlib

import numpy as np

import xhybrid

CYCLES = int(os.environ.get("XHYBRID_LEAK_CYCLES", "60"))
ALLOWED = 4 << 20  # what the allocator may keep back; a leaked model is three times as much


def resident():
    gc.collect()
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def cycle(student, teacher):
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


def test_cycles_hold_memory_flat(student, teacher, capsys):
    warm = max(20, CYCLES // 10)
    for _ in range(warm):
        cycle(student, teacher)
    before = resident()
    for _ in range(CYCLES):
        cycle(student, teacher)
    grown = resident() - before
    with capsys.disabled():
        print(f"\n{CYCLES} cycles after {warm}: {before / 1e6:.1f} MB, {grown / 1e6:+.2f} MB")
    assert grown < ALLOWED
