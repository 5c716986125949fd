import gc
import shutil

import numpy as np
import pytest

import xhybrid

NAME = "model.norm.weight"


@pytest.fixture(scope="module")
def checkpoint(student):
    return xhybrid.Checkpoint.open(student)


@pytest.fixture(scope="module")
def bf16(made, source):
    xhybrid.import_model(source / "examples/teacher-llama-3m", made / "bf16.xhy", dtype="bf16")
    return xhybrid.Checkpoint.open(made / "bf16.xhy")


def test_names_are_sorted_and_every_one_has_a_tensor(checkpoint):
    assert checkpoint.names == sorted(checkpoint.names)
    assert len(checkpoint) == len(checkpoint.names) > 50
    assert NAME in checkpoint and "nothing" not in checkpoint
    table = {row["name"]: row for row in checkpoint.describe()["tensors"]}
    for name in checkpoint:
        tensor = checkpoint[name]
        assert list(tensor.shape) == table[name]["shape"] and tensor.dtype == table[name]["dtype"]


def test_a_tensor_is_the_file_itself(checkpoint):
    first, second = checkpoint[NAME].numpy(), checkpoint.tensor(NAME).numpy()
    assert first.ctypes.data == second.ctypes.data
    assert first.dtype == np.float32 and first.shape == (192,)
    assert not first.flags.owndata and not first.flags.writeable


def test_numpy_takes_it_through_dlpack_without_a_copy(checkpoint):
    tensor = checkpoint["model.embed_tokens.weight"]
    taken = np.from_dlpack(tensor)
    assert taken.ctypes.data == tensor.numpy().ctypes.data
    assert taken.shape == tensor.shape and not taken.flags.writeable
    assert tensor.__dlpack_device__() == (1, 0)


def test_dlpack_before_and_after_1_0(checkpoint):
    tensor = checkpoint[NAME]
    assert '"dltensor"' in repr(tensor.__dlpack__())
    assert '"dltensor_versioned"' in repr(tensor.__dlpack__(max_version=(1, 0)))


def test_dlpack_refuses_what_it_cannot_do(checkpoint):
    with pytest.raises(BufferError, match="host memory"):
        checkpoint[NAME].__dlpack__(dl_device=(2, 0))
    with pytest.raises(BufferError, match="streams"):
        checkpoint[NAME].__dlpack__(stream=1)


def test_torch_takes_it_through_dlpack_without_a_copy(checkpoint, bf16):
    torch = pytest.importorskip("torch")
    tensor = checkpoint[NAME]
    assert torch.from_dlpack(tensor).data_ptr() == tensor.numpy().ctypes.data
    halves = torch.from_dlpack(bf16[NAME])
    assert halves.dtype == torch.bfloat16
    assert np.array_equal(np.from_dlpack(halves.float()), bf16[NAME].float32())


def test_views_outlive_their_checkpoint(student):
    checkpoint = xhybrid.Checkpoint.open(student)
    expected = checkpoint[NAME].numpy().copy()
    array, taken = checkpoint[NAME].numpy(), np.from_dlpack(checkpoint[NAME])
    checkpoint.close()
    del checkpoint
    gc.collect()
    assert np.array_equal(array, expected) and np.array_equal(taken, expected)


def test_bf16_is_widened_exactly_and_shown_as_ml_dtypes_or_bits(bf16, monkeypatch):
    tensor = bf16[NAME]
    assert tensor.dtype == "bf16"
    bits = np.asarray(tensor.buffer)
    assert bits.dtype == np.uint16
    assert np.array_equal(tensor.float32().view(np.uint32), bits.astype(np.uint32) << 16)
    ml_dtypes = pytest.importorskip("ml_dtypes")
    assert tensor.numpy().dtype == ml_dtypes.bfloat16
    assert np.array_equal(tensor.numpy().astype(np.float32), tensor.float32())
    monkeypatch.setitem(__import__("sys").modules, "ml_dtypes", None)
    assert tensor.numpy().dtype == np.uint16


def test_a_tensor_cannot_be_written_to(checkpoint):
    with pytest.raises(ValueError, match="read-only"):
        checkpoint[NAME].numpy()[0] = 0
    with pytest.raises(TypeError):
        memoryview(checkpoint[NAME].buffer)[0] = 0


def test_numpy_functions_take_a_tensor(checkpoint):
    tensor = checkpoint[NAME]
    assert np.mean(tensor) == np.mean(tensor.numpy())
    assert np.asarray(tensor, np.float64).dtype == np.float64
    with pytest.raises(ValueError, match="takes a copy"):
        tensor.__array__(np.float64, copy=False)


def test_a_tensor_that_is_not_there_is_named(checkpoint):
    with pytest.raises(xhybrid.NotFoundError, match='no tensor "nothing"'):
        checkpoint.tensor("nothing")
    with pytest.raises(LookupError):
        checkpoint["nothing"]


def test_verify_reads_everything_and_finds_damage(student, tmp_path):
    xhybrid.Checkpoint.open(student).verify()
    damaged = tmp_path / "damaged.xhy"
    shutil.copytree(student, damaged)
    shard = max(damaged.rglob("*"), key=lambda path: path.stat().st_size if path.is_file() else 0)
    with open(shard, "r+b") as file:
        file.seek(5000)
        byte = file.read(1)
        file.seek(5000)
        file.write(bytes([byte[0] ^ 1]))
    with pytest.raises(xhybrid.CorruptError):
        xhybrid.Checkpoint.open(damaged).verify()


def test_load_mode_copy_gives_the_same(student, checkpoint):
    copied = xhybrid.Checkpoint.open(student, load_mode="copy")
    assert np.array_equal(copied[NAME].numpy(), checkpoint[NAME].numpy())
    with pytest.raises(xhybrid.InvalidArgumentError, match="map"):
        xhybrid.Checkpoint.open(student, load_mode="guess")


@pytest.mark.parametrize("path", ["missing.xhy", "über/日本.xhy"])
def test_a_bad_path_is_named(path):
    with pytest.raises(xhybrid.NotFoundError) as caught:
        xhybrid.Checkpoint.open(path)
    assert path in caught.value.message


def test_a_path_that_is_none(tmp_path):
    with pytest.raises(ValueError, match="zero byte"):
        xhybrid.Checkpoint.open("a\0b")
    with pytest.raises(TypeError):
        xhybrid.Checkpoint.open(None)
    with pytest.raises(TypeError):
        xhybrid.Checkpoint.open(3)
    with pytest.raises(xhybrid.Error):
        xhybrid.Checkpoint.open(tmp_path)  # a directory, but no checkpoint


def test_a_path_of_other_bytes_than_utf8_does_no_harm(student, tmp_path):
    odd = tmp_path / "odd\udcff.xhy"
    shutil.copytree(student, odd)
    assert len(xhybrid.Checkpoint.open(odd)) > 50
