"""`paretopipe trace TRIAL.json`: a trial's timeline as a Chrome trace, which Perfetto and `chrome://tracing` open."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from pplib.analysis.trials.events import timeline_frame
from pplib.errors import ParetoPipeError
from pplib.records import TrialRecord, read_record, write_atomic


def main(arguments: Sequence[str] | None = None, prog: str = "python -m pplib.view.trace") -> int:
    """Write a trace beside a trial's record, or elsewhere; the exit status is 1 where that cannot be done."""
    name = "paretopipe trace" if prog == "paretopipe" else prog
    about = "A trial's timeline for Perfetto (ui.perfetto.dev, which keeps it in the browser) or chrome://tracing."
    parser = argparse.ArgumentParser(prog=name, description=about)
    parser.add_argument("trial", type=Path, metavar="TRIAL.json", help="one of <results>/<configuration>/trials/*.json")
    parser.add_argument("--output", type=Path, metavar="FILE", help="default: the record's name with .trace.json")
    options = parser.parse_args(arguments)
    output = options.output or Path(options.trial.stem + ".trace.json")
    try:
        events = trace(read_record(options.trial))
        write_atomic(output, msgspec.json.encode(events))
    except ParetoPipeError as exc:
        sys.stderr.write(f"error: {exc}\n")
        return 1
    sys.stdout.write(f"{output}\n")
    return 0


def trace(record: TrialRecord) -> dict[str, Any]:
    """The events of a trial, warm-up included, in the JSON form of Chrome's trace events.

    A device is a process, named with the bound of its clock's error: by so much its events may lie early or late
    against those of the others. What a stage computes is a thread; what may overlap with its like, as microbatches
    that wait, or travel behind each other over a link, is asynchronous. Times are in microseconds since the first
    admission.

    Source: "Trace Event Format", the Chromium project.
    """
    events: list[dict[str, Any]] = [
        {
            "ph": "M",
            "name": "process_name",
            "pid": one.stage_index,
            "args": {"name": f"{one.device} (clock within {one.clock_error_s * 1e6:.0f} us)"},
        }
        for one in record.timelines
    ]
    for row in timeline_frame(record, measured_only=False).to_dict("records"):
        event = {
            "name": f"{row['event']} {row['microbatch']}",
            "cat": row["event"],
            "pid": row["stage_index"],
            "tid": 0,
            "args": {"microbatch": row["microbatch"], "lane": row["lane"]},
        }
        start, end = row["start_s"] * 1e6, row["end_s"] * 1e6
        if row["event"] == "compute":
            events.append({**event, "ph": "X", "ts": start, "dur": end - start})
        elif end > start:  # most wait for nothing
            own = {"id": f"{row['lane']} {row['event']} {row['microbatch']}", "cat": f"{row['lane']} {row['event']}"}
            events += [{**event, **own, "ph": "b", "ts": start}, {**event, **own, "ph": "e", "ts": end}]
    told = {
        "configuration": record.configuration,
        "point": record.label,
        "repeat": record.repeat,
        "warmup": record.warmup,
        "cooldown": record.cooldown,
        "clock_error_s": {one.device: one.clock_error_s for one in record.timelines},
    }
    return {"traceEvents": events, "displayTimeUnit": "ms", "otherData": told}


if __name__ == "__main__":
    sys.exit(main())
