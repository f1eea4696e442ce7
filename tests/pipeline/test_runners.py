"""Stages on an accelerator, with a stand-in for its few calls: copies that are done when they are waited for."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from pplib.errors import WorkerError
from pplib.pipeline.monitor.host import gpu_name
from pplib.pipeline.stage.eager import AcceleratorRunner, CpuRunner, use_ieee_precision
from pplib.pipeline.stage.tensors import torch_dtype
from pplib.pipeline.wire.plan import PipelinePlan, TensorSpec
from tests.pipeline.test_stage_loop import pipeline

SPEC = TensorSpec((2, 3), "float32")


class Lagging:
    """An accelerator in this process whose copies happen as late as they may: in `synchronise`."""

    def __init__(self):
        self._begun = []

    def pinned(self, spec):
        return torch.full(spec.shape, float("nan"), dtype=torch_dtype(spec))

    def upload(self, pinned):
        there = torch.full_like(pinned, float("nan"))
        self._begun.append((pinned, there))
        return there

    def download(self, tensor, pinned):
        self._begun.append((tensor, pinned))

    def synchronise(self):
        for source, target in self._begun:
            target.copy_(source)
        self._begun.clear()


class Double(nn.Module):
    def forward(self, x):
        return x * 2


class Tail(nn.Module):
    """Returns a view of what it is given."""

    def forward(self, x):
        return x.reshape(x.shape)


def plan(in_flight, tensors=(SPEC, SPEC, SPEC)):
    return PipelinePlan(
        model="m",
        weights_sha256="0" * 64,
        granularity="block",
        points=(1,),
        optimize=False,
        in_flight=in_flight,
        tensors=tensors,
        stages=(),
    )


@pytest.mark.parametrize("in_flight", [1, 2, 4])
@pytest.mark.parametrize("place", [0, 1])
def test_every_output_of_a_pipeline_with_an_accelerator_is_right_and_stays_so(in_flight, place):
    runners = [CpuRunner(Double(), SPEC), CpuRunner(Double(), SPEC)]
    runners[place] = AcceleratorRunner(Double(), Lagging(), plan(in_flight), place)
    loops, errors = pipeline(runners, in_flight, count=11)
    assert errors == [None, None]
    assert [float(out[0, 0]) for out in loops[-1].outputs] == [4.0 * (i % 3) for i in range(11)]
    assert all(copied > 0 for copied in loops[place].trace.copy_ns)


@pytest.mark.parametrize("last", [Tail(), nn.Identity()])
def test_outputs_that_lie_in_the_slot_they_came_in_are_kept_as_they_were(last):
    loops, errors = pipeline([CpuRunner(Double(), SPEC), CpuRunner(last, SPEC)], 1, count=7)
    assert errors == [None, None]
    assert [float(out[0, 0]) for out in loops[-1].outputs] == [2.0 * (i % 3) for i in range(7)]


@pytest.mark.parametrize("kind", ["cpu", "accelerator"])
@pytest.mark.parametrize("wrong", [TensorSpec((2, 1), "float32"), TensorSpec((2, 3), "float64")])
def test_an_output_of_another_shape_or_type_is_refused_by_the_stage_that_made_it(kind, wrong):
    class Wrong(nn.Module):
        def forward(self, x):
            return x[: wrong.shape[0], : wrong.shape[1]].to(torch_dtype(wrong))

    runner = (
        CpuRunner(Wrong(), SPEC) if kind == "cpu" else AcceleratorRunner(Wrong(), Lagging(), plan(1), stage_index=1)
    )
    with pytest.raises(WorkerError, match=r"stage 1: microbatch 0 came out as .*, expected float32 \(2, 3\)"):
        pipeline([CpuRunner(Double(), SPEC), runner], 1, count=3, told=True)


def test_float32_is_float32_on_every_device_whatever_was_set_before():
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True
    use_ieee_precision()
    assert torch.backends.cuda.matmul.fp32_precision == torch.backends.cudnn.conv.fp32_precision == "ieee"
    assert torch.backends.cudnn.rnn.fp32_precision == torch.backends.mkldnn.matmul.fp32_precision == "ieee"


def test_a_gpu_that_is_not_there_is_told_with_those_that_are():
    def seeing(*names):
        return SimpleNamespace(
            is_available=lambda: bool(names), device_count=lambda: len(names), get_device_name=lambda i: names[i]
        )

    assert gpu_name("cuda", seeing("H100", "A2")) == "H100"
    assert gpu_name("cuda:1", seeing("H100", "A2")) == "A2"
    with pytest.raises(WorkerError, match=r"torch_device cuda:2: no such GPU: .* sees 2 CUDA devices: choose cuda:0 "):
        gpu_name("cuda:2", seeing("H100", "A2"))
    with pytest.raises(WorkerError, match="sees no CUDA devices: it needs a build with CUDA, and NVIDIA's driver"):
        gpu_name("cuda:0", seeing())
