"""From a plan to a running stage: by PyTorch, which is loaded where a stage needs it, or by another runtime."""

from __future__ import annotations

import importlib
import time
from dataclasses import dataclass

from pplib.errors import ModelError, WorkerError
from pplib.model.weights.stored import verified_weights
from pplib.pipeline.process.memory import check_room, memory_for
from pplib.pipeline.stage.runners import ExportedRunner, PausingRunner, Runner
from pplib.pipeline.wire.plan import ExportedStage, PipelinePlan, TensorSpec
from pplib.runtimes import EAGER, Place, missing, runtime


@dataclass(frozen=True)
class BuiltStage:
    """A stage in memory."""

    plan: PipelinePlan
    stage_index: int
    runner: Runner
    param_bytes: int
    build_s: float


class StageBuilder:
    """Builds the stages of one worker.

    Args:
        torch_device: where they run, as torch names it.
        threads: inside one operation.
    """

    def __init__(self, torch_device: str, threads: int) -> None:
        self._device, self._threads = torch_device, threads

    def build(self, plan: PipelinePlan, stage_index: int) -> BuiltStage:
        """Build stage `stage_index` of `plan`, holding the tensors of that stage and no others.

        Raises:
            ModelError: the description names what no stage may have; weights missing, damaged or not of this model.
            NoRoomError: there is not enough memory for it.
            WorkerError: its runtime is not installed here.
        """
        if not 0 <= stage_index < min(len(plan.stages), len(plan.tensors) - 1):
            raise ModelError(f"stage {stage_index} of a plan that describes {len(plan.stages)}")
        stage, out = plan.stages[stage_index], plan.tensors[stage_index + 1]
        with memory_for(f"stage {stage_index} while it was built"):
            if not isinstance(stage, ExportedStage):
                load_torch()
                from pplib.pipeline.stage.eager import make_stage

                start = time.monotonic()
                runner, param_bytes = make_stage(stage, plan, stage_index, self._device, self._threads)
            else:
                if self._device == "cpu":
                    check_room(stage.param_bytes, f"stage {stage_index}")
                start = time.monotonic()
                runner, param_bytes = self._opened(stage, out)
        return BuiltStage(plan, stage_index, runner, param_bytes, build_s=time.monotonic() - start)

    def _opened(self, stage: ExportedStage, out: TensorSpec) -> tuple[Runner, int]:
        """A graph of another runtime."""
        if not stage.graph:
            return (PausingRunner(stage.pause_s) if stage.pause_s else ExportedRunner(None, out)), 0
        weights = verified_weights(stage.weights_sha256)
        place = Place(self._threads, self._device, stage.precision)
        opened = runtime(stage.runtime).open_stage(stage.graph, weights.path.parent, place)
        return ExportedRunner(opened, out), stage.param_bytes


def load_torch() -> None:
    """Load PyTorch, which takes seconds: what follows does not.

    Raises:
        WorkerError: it is not installed here.
    """
    try:
        importlib.import_module("pplib.pipeline.stage.eager")
    except ModuleNotFoundError as exc:
        raise WorkerError(missing(EAGER, "PyTorch is not installed here")) from exc
