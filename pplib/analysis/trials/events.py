"""The events of a trial, one row each: for the chart of its timeline, and for a trace."""

from __future__ import annotations

import msgspec
import pandas as pd

from pplib.analysis.trials.timeline import Parts
from pplib.records import StageTimeline, TrialRecord


def timeline_frame(record: TrialRecord, measured_only: bool = True) -> pd.DataFrame:
    """The events of one trial: what each stage and hop did with each microbatch, and when.

    Columns: microbatch, stage_index, lane ("stage 0", "hop 0"), event ("decode", "queue", "compute", "encode",
    "transfer"), start_s, end_s (since the first admission), device. Queueing shows on the lane of the stage or hop
    that is waited for; of a wait before and after encoding all is shown after it. Of a trial that failed, all
    microbatches that passed every stage whose worker still answered.
    """
    total = min((len(one.send_start_s) for one in record.timelines), default=0)
    stages = [_first(one, total) for one in record.timelines]
    neighbours = [one.stage_index for one in stages] == list(range(len(stages)))  # else one has no timeline
    delay_s = record.link.profile.forward.delay_s if record.link else 0.0
    parts = Parts(stages if neighbours else [], propagation_s=delay_s)
    shown = range(total)[record.measured] if measured_only and record.status == "ok" else range(total)
    rows = []
    for stage in stages:
        i = stage.stage_index
        for seq in shown:
            decoded = stage.received_s[seq] + (stage.decode_s[seq] if stage.decode_s else 0.0)
            encoded = stage.compute_end_s[seq] + (stage.encode_s[seq] if stage.encode_s else 0.0)
            spans = [
                *([(f"stage {i}", "decode", stage.received_s[seq], decoded)] if stage.decode_s else []),
                (f"stage {i}", "queue", decoded, stage.compute_start_s[seq]),
                (f"stage {i}", "compute", stage.compute_start_s[seq], stage.compute_end_s[seq]),
            ]
            if i < len(parts.transfer):
                start = float(parts.transfer_start[i][seq])
                spans += [
                    *([(f"hop {i}", "encode", stage.compute_end_s[seq], encoded)] if stage.encode_s else []),
                    (f"hop {i}", "queue", encoded, start),
                    (f"hop {i}", "transfer", start, stages[i + 1].received_s[seq]),
                ]
            rows += [
                {
                    "microbatch": seq - shown.start,
                    "stage_index": i,
                    "lane": lane,
                    "event": event,
                    "start_s": begin,
                    "end_s": end,
                    "device": stage.device,
                }
                for lane, event, begin, end in spans
            ]
    return pd.DataFrame(rows)


def _first(stage: StageTimeline, count: int) -> StageTimeline:
    lists = {key: value[:count] for key in stage.__struct_fields__ if isinstance(value := getattr(stage, key), list)}
    return msgspec.structs.replace(stage, **lists)
