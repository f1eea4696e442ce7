"""What activations become on their way, and what is made of them again: exact, or as far off as is said."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pplib.errors import ConfigError, ModelError, ProtocolError
from pplib.links import WIRES, wire_parts
from pplib.model.partition import PartitionedModel
from pplib.model.ranges import ranges
from pplib.pipeline.stage.tensors import array_of, tensor_of, torch_dtype
from pplib.pipeline.wire.codecs import Codec
from pplib.pipeline.wire.connection import Deadline
from pplib.pipeline.wire.plan import Encoding, TensorSpec
from tests.helpers.models import tiny
from tests.pipeline.test_hops_contract import hop, sending  # noqa: F401 (a fixture)

SHAPES = [
    ((2, 3, 5, 4), "channels_last"),
    ((2, 3, 5, 4), "contiguous"),
    ((2, 7), "contiguous"),
    ((2, 5, 6), "contiguous"),
]


def laid_out(spec, seed):
    values = torch.randn(spec.shape, generator=torch.Generator().manual_seed(seed)) * 3
    return spec.laid_out(array_of(values.to(torch_dtype(spec))))


def encoding(wire, array):
    kind, compression = wire_parts(wire)
    if kind != "int8":
        return Encoding(kind, compression)
    tensor = tensor_of(array)
    axis = 1 if tensor.dim() == 4 else tensor.dim() - 1
    rest = [i for i in range(tensor.dim()) if i != axis]
    low, high = tensor.float().amin(rest), tensor.float().amax(rest)
    return Encoding(kind, compression, tuple(low.tolist()), tuple(((high - low) / 255).tolist()))


def back(codec, array):
    carried = codec.encode(array)
    assert carried.nbytes <= codec.carried.num_bytes
    if codec.carried.exact:
        assert (carried.shape, carried.dtype) == (codec.carried.shape, codec.carried.array_dtype)
        assert codec.carried.is_laid_out(carried)
    return codec.decode(carried)


@settings(max_examples=40)
@given(seed=st.integers(0, 2**32), shape=st.sampled_from(SHAPES), wire=st.sampled_from(WIRES))
def test_what_comes_back_is_what_went_but_for_what_is_said(seed, shape, wire):
    spec = TensorSpec(shape[0], "float32", shape[1])
    array = laid_out(spec, seed)
    how = encoding(wire, array)
    got = back(Codec(spec, how), array)
    assert (got.shape, got.dtype) == (spec.shape, spec.array_dtype)
    assert spec.is_laid_out(got)
    off = np.abs(got - array)
    if how.kind == "float32":
        assert np.array_equal(got, array)
    elif how.kind == "float16":
        assert (off <= np.abs(array) * 2**-11 + 2**-25).all()
    else:
        wide = [1] * array.ndim
        wide[1 if array.ndim == 4 else -1] = -1
        assert (off <= np.reshape(how.step, wide) * 0.501).all(), "half a step"


@pytest.mark.parametrize("dtype", ["uint8", "int64", "float64", "float16", "bfloat16", "bool"])
@pytest.mark.parametrize("wire", WIRES)
def test_other_types_come_back_as_they_were_and_those_without_fractions_bit_for_bit(dtype, wire):
    spec = TensorSpec((2, 3), dtype)
    tensor = (torch.arange(6).reshape(2, 3) % 2).to(torch_dtype(spec))
    got = tensor_of(back(Codec(spec, encoding(wire, array_of(tensor))), array_of(tensor)))
    assert got.dtype == tensor.dtype and torch.allclose(got.double(), tensor.double(), atol=4e-3)
    if not tensor.dtype.is_floating_point:
        assert torch.equal(got, tensor)


def test_bfloat16_is_rounded_to_nearest_as_torch_does_it():
    spec, values = TensorSpec((1, 4096), "bfloat16"), torch.randn(1, 4096).half()
    codec = Codec(spec, Encoding("float16"))
    assert torch.equal(tensor_of(codec.decode(array_of(values))), values.bfloat16())
    there = values.bfloat16()
    assert torch.equal(tensor_of(codec.encode(array_of(there))), there.half())


def test_beyond_the_range_the_nearest_value_that_there_is_crosses():
    spec = TensorSpec((1, 4), "float32")
    large = np.array([[1e6, -1e6, 65504.0, 1.0]], np.float32)
    assert back(Codec(spec, Encoding("float16")), large).tolist() == [[65504.0, -65504.0, 65504.0, 1.0]]
    narrow = Encoding("int8", "", (0.0,), (1 / 255,))
    assert back(Codec(spec, narrow), large)[0].tolist() == pytest.approx([1.0, 0.0, 1.0, 1.0])


@pytest.mark.parametrize("wire", ["float32+zstd", "float32+lz4"])
def test_what_does_not_decompress_to_what_the_plan_says_is_refused(wire):
    spec, other = TensorSpec((4, 1000), "float32"), TensorSpec((4, 1_000_000), "float32")
    codec = Codec(spec, Encoding(*wire_parts(wire)))
    bomb = Codec(other, Encoding(*wire_parts(wire))).encode(np.zeros(other.shape, np.float32))
    assert bomb.size < spec.num_bytes * 5
    whole = codec.encode(np.random.default_rng(0).standard_normal(spec.shape, np.float32))
    for bad in (bomb, whole[:-5], whole[:1], np.zeros(40, np.uint8)):
        with pytest.raises(ProtocolError):
            codec.decode(bad)


@pytest.mark.parametrize("wire", ["float32+zstd", "int8+lz4", "float16"])
def test_encoded_tensors_cross_every_backend_in_memory_that_was_there(hop, wire):  # noqa: F811
    before, after = hop
    spec = TensorSpec((2, 3, 8, 8), "float32", "channels_last")
    arrays = [laid_out(spec, seed) * np.float32(seed % 2) for seed in range(4)]
    codec = Codec(spec, encoding(wire, np.concatenate(arrays)))
    after.receiver.start(codec.carried, 1)
    encoded = [codec.encode(one) for one in arrays]
    deadline, slot = Deadline(10, "test"), codec.carried.allocate()
    with sending(before, *[(seq, one, seq == 3) for seq, one in enumerate(encoded)], spec=codec.carried):
        for seq, one in enumerate(encoded):
            got, _, _ = after.receiver.receive(seq, slot, deadline)
            assert np.array_equal(got, one)
            assert np.array_equal(codec.decode(got), codec.decode(one))


def test_more_bytes_than_the_largest_that_may_be_are_refused_by_every_backend(hop):  # noqa: F811
    before, after = hop
    larger, smaller = TensorSpec((5000,), "uint8", exact=False), TensorSpec((100,), "uint8", exact=False)
    after.receiver.start(smaller, 1)
    refused = pytest.raises(ProtocolError, match=r"expected microbatch 0 of trial 1 as at most 100 bytes")
    with sending(before, (0, np.zeros(101, np.uint8), False), spec=larger), refused:
        after.receiver.receive(0, smaller.allocate(), Deadline(5, "test"))


def test_ranges_are_of_all_images_and_every_channel_and_what_is_not_finite_is_named():
    torch.manual_seed(0)
    model, batches = tiny().eval(), [torch.randn(2, 3, 64, 64) for _ in range(3)]
    partitioned = PartitionedModel(model, batches[0], "block")
    found = ranges(partitioned, batches, "it")
    assert [len(one.low) for one in found] == [cut.activation_shape[1] for cut in partitioned.points]
    lowest = torch.cat(batches).amin((0, 2, 3))
    np.testing.assert_allclose(found[0].low, lowest)
    np.testing.assert_allclose(found[0].step, (torch.cat(batches).amax((0, 2, 3)) - lowest) / 255)
    batches[1][0, 0, 0, 0] = float("inf")
    with pytest.raises(ModelError, match=r"^it: the value at P0 is not finite everywhere: `wire: int8` has no range"):
        ranges(partitioned, batches, "it")
    always = PartitionedModel(torch.nn.Sequential(torch.nn.Hardtanh(2, 3)).eval(), torch.zeros(1, 3, 4, 4), "layer")
    (low, step) = ranges(always, [torch.zeros(1, 3, 4, 4)], "it")[1]
    assert set(low) == {2.0} and set(step) == {1.0}


@pytest.mark.parametrize(
    ("asked", "told"),
    {
        "int9": "wire: 'int9' is unknown; nearest: int8",
        "int8+gzip": "wire: 'int8+gzip' is unknown; nearest: int8",
        "zstd": "wire: 'zstd' is unknown; ",
        "": "wire: '' is unknown; known: float32, float32",
    }.items(),
)
def test_a_wire_type_that_is_none_is_refused_with_the_nearest(asked, told):
    with pytest.raises(ConfigError) as caught:
        wire_parts(asked)
    assert str(caught.value).startswith(told)
