"""Files of PyTorch are read without PyTorch, and cannot make anything run."""

import io
import pickle
import struct
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
import torch

from hyperpq.backbones import efficientnet_lite as lite
from hyperpq.backbones.torch_file import read_state_dict

MAGIC = pickle.dumps(0x1950A86A20F9469CFC6C, 2)
SYSTEM = pickle.dumps({"protocol_version": 1001, "little_endian": True}, 2)
BEGINNING = MAGIC + pickle.dumps(1001, 2) + SYSTEM


def saved(state, *, legacy):
    out = io.BytesIO()
    torch.save(state, out, _use_new_zipfile_serialization=not legacy)
    return out.getvalue()


def example():
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    state = module.state_dict()
    state["0.weight"] = state["0.weight"].to(memory_format=torch.channels_last)
    state["part"] = torch.arange(12.0).reshape(3, 4)[1:, 1:]
    state["empty"] = torch.zeros(0, 5)
    return state


@pytest.mark.parametrize("legacy", [True, False])
def test_the_tensors_are_those_that_pytorch_wrote(legacy):
    state = example()
    found = read_state_dict(saved(state, legacy=legacy))
    assert list(found) == list(state)
    for name, tensor in state.items():
        assert found[name].dtype == tensor.numpy().dtype
        assert np.array_equal(found[name], tensor.numpy())
        assert not found[name].flags.writeable


@pytest.mark.parametrize("name", ["lite0", "lite1", "lite2"])
def test_the_embedded_weights_are_those_that_pytorch_reads(name):
    path = lite._weights_path(name)
    expected = torch.load(path, map_location="cpu", weights_only=True)
    found = lite._state(name, path)
    assert list(found) == list(expected)
    assert all(np.array_equal(found[key], expected[key].numpy()) for key in expected)


def program(*parts):
    """A file of the old format whose third pickle is made of these instructions."""
    return BEGINNING + b"\x80\x02" + b"".join(parts) + b"."


def storage(key=b"0", count=4, kind=b"FloatStorage"):
    text = lambda t: b"X" + struct.pack("<I", len(t)) + t  # noqa: E731
    number = b"J" + struct.pack("<i", count)
    return b"(" + text(b"storage") + b"ctorch\n" + kind + b"\n" + text(key) + text(b"cpu") + number


def tensor(start=0, shape=(4,), strides=(1,), **of_storage):
    """Instructions for one tensor."""
    number = lambda n: b"J" + struct.pack("<i", n)  # noqa: E731
    sizes = b"".join(b"(" + b"".join(map(number, axis)) + b"t" for axis in (shape, strides))
    arguments = storage(**of_storage) + b"NtQ" + number(start) + sizes + b"\x89ccollections\n"
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + arguments + b"OrderedDict\n)RtR"


def legacy_file(one, keys=("0",), values=(1.0, 2.0, 3.0, 4.0), count=None):
    numbers = struct.pack("<q", len(values) if count is None else count)
    numbers += struct.pack(f"<{len(values)}f", *values)
    stored = program(b"}X\x01\x00\x00\x00a", one, b"s")
    return stored + pickle.dumps(list(keys), 2) + numbers


def test_a_file_made_by_hand():
    """What the hostile files below are variants of."""
    assert read_state_dict(legacy_file(tensor()))["a"].tolist() == [1, 2, 3, 4]
    turned = read_state_dict(legacy_file(tensor(shape=(2, 2), strides=(1, 2))))["a"]
    assert turned.tolist() == [[1, 3], [2, 4]]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "pickle exhausted"),
        (b"\x80\x02K\x05.", "does not begin as files of PyTorch do"),
        (BEGINNING, "pickle exhausted"),
        (MAGIC + pickle.dumps(1001, 2) + pickle.dumps({"little_endian": False}, 2), "big-endian"),
        (program(b"cos\nsystem\n", b"X\x02\x00\x00\x00ls", b"\x85R"), "calls 'os system'"),
        (program(b"ctorch.serialization\nload\n)R"), "calls 'torch.serialization load'"),
        (program(b"ccollections\nOrderedDict\n", b"]\x85R"), "calls 'collections OrderedDict'"),
        (program(b"X\x02\x00\x00\x00ls)R"), "calls 'a value'"),
        (program(b"c__builtin__\nobject\n)\x81"), "instruction NEWOBJ"),
        (program(b"(ios\nsystem\n"), "instruction INST"),
        (program(b"\x82\x01"), "instruction EXT1"),
        (program(b"P1\n"), "instruction PERSID"),
        (program(b"K\x05Q"), "a storage is described in another way"),
        (program(b"}]K\x05s"), "stored under what are no names"),
        (program(b"K\x05X\x01\x00\x00\x00aK\x05s"), "stored under what are no names"),
        (program(b"}(K\x05e"), "added to what is no list"),
        (program(b"q\x05"), "IndexError"),
        (program(b"h\x05"), "KeyError"),
        (program(b"t"), "IndexError"),
        (program(b"K\x05\x86"), "a tuple has too few values"),
        (program(b"K\x05"), "something else than tensors"),
        (program(b"}X\x01\x00\x00\x00aK\x05s"), "something else than tensors"),
        (legacy_file(tensor(shape=(5,))), "longer than its storage"),
        (legacy_file(tensor(start=1)), "longer than its storage"),
        (legacy_file(tensor(shape=(2, 2), strides=(4, 1))), "longer than its storage"),
        # A million views of one number would be a million numbers in any copy.
        (legacy_file(tensor(shape=(1 << 20,), strides=(0,))), "longer than its storage"),
        (legacy_file(tensor(start=-1)), "sizes that are no numbers"),
        (legacy_file(tensor(strides=(-1,))), "sizes that are no numbers"),
        (legacy_file(tensor(shape=(2, 2))), "zip"),
        (legacy_file(tensor(count=3)), "another length or type"),
        (legacy_file(tensor(kind=b"DoubleStorage")), "expected one of torch FloatStorage"),
        (legacy_file(tensor(count=-4)), "a torch FloatStorage; expected"),
        (legacy_file(tensor(), keys=()), "KeyError"),
        (legacy_file(tensor(), keys=("1",)), "KeyError"),
        (legacy_file(tensor(), values=(1.0,)), "another length or type"),
        (legacy_file(tensor(), count=1 << 40), "buffer is smaller"),
        (legacy_file(tensor(), count=1 << 62), "too big|buffer"),
        (legacy_file(tensor())[:-2], "buffer is smaller"),
    ],
)
def test_hostile_and_damaged_files(data, said):
    with pytest.raises(ValueError, match=said):
        read_state_dict(data)


def zipped(files, compression=zipfile.ZIP_STORED):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compression) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return out.getvalue()


def test_hostile_archives():
    data = saved(example(), legacy=False)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    folder = next(iter(files)).partition("/")[0]
    assert list(read_state_dict(zipped(files))) == list(example())
    for change, said in (
        ({f"{folder}/data/0": b"1234"}, "another length or type"),
        ({f"{folder}/data/0": b"123"}, "buffer size"),
        ({f"{folder}/byteorder": b"big"}, "big-endian"),
        ({f"{folder}/data.pkl": b"cos\nsystem\n)R."}, "calls 'os system'"),
        ({f"{folder}/data.pkl": b""}, "pickle exhausted"),
    ):
        with pytest.raises(ValueError, match=said):
            read_state_dict(zipped(files | change))
    with pytest.raises(ValueError, match=r"has no data\.pkl"):
        read_state_dict(zipped({"a": b"b"}))
    with pytest.raises(ValueError, match="is compressed"):
        read_state_dict(zipped(files, zipfile.ZIP_DEFLATED))
    with pytest.raises(ValueError, match="BadZipFile"):
        read_state_dict(data[:-30])
    del files[f"{folder}/data/0"]
    with pytest.raises(ValueError, match="KeyError"):
        read_state_dict(zipped(files))


def test_other_things_than_a_state_dict():
    for value in (
        OrderedDict(a=torch.zeros(2, dtype=torch.float64)),
        [torch.zeros(2)],
        {"a": {"b": torch.zeros(2)}},
        torch.zeros(2),
    ):
        for legacy in (True, False):
            with pytest.raises(ValueError, match=r"something else|expected one of|no state dict"):
                read_state_dict(saved(value, legacy=legacy))
