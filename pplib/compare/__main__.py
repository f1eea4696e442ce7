"""`paretopipe compare RUN RUN [...]`; the same as `python -m pplib.compare`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from pplib.columns import INDIFFERENCE, OBJECTIVES
from pplib.compare.runs import read_runs
from pplib.compare.sections import comparison_sections
from pplib.errors import ParetoPipeError
from pplib.objectives import aims
from pplib.view.report import write_report


def main(arguments: Sequence[str] | None = None, prog: str = "python -m pplib.compare") -> int:
    """Print the comparison; the exit status is 1 where runs cannot be compared."""
    name = "paretopipe compare" if prog == "paretopipe" else prog
    parser = argparse.ArgumentParser(prog=name, description="Runs side by side: does one confirm the other?")
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folders of results, as outputs/default")
    words = "a difference that does not matter, as a share (default: %(default)s)"
    parser.add_argument("--indifference", type=float, default=INDIFFERENCE, metavar="SHARE", help=words)
    words = "a column that the fronts are of, once for each (default: latency and throughput)"
    parser.add_argument("--objective", action="append", metavar="COLUMN", help=words)
    parser.add_argument("--report", type=Path, metavar="FILE.html", help="write it as a page, with the charts, too")
    options = parser.parse_args(arguments)
    try:
        wanted = aims(options.objective or [*OBJECTIVES], {}, options.indifference)
        found = comparison_sections(read_runs(options.runs), wanted)
        title = f"ParetoPipe: {', '.join(run.name for run in options.runs)}"
        written = None if options.report is None else write_report(options.report, title, found)
    except (ParetoPipeError, OSError) as exc:
        sys.stderr.write(f"error: {exc}\n")
        return 1
    for section in found:
        sys.stdout.write(f"{section.title}\n\n{section.text}\n\n")
        if section.table is not None:
            sys.stdout.write(section.table.to_string(index=False, float_format="{:.3f}".format) + "\n\n")
    if written is not None:
        sys.stdout.write(f"{written}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
