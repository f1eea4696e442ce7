"""`python -m pplib.sweep`."""

from __future__ import annotations

import sys

from pplib.sweep.job.grid_run import main

if __name__ == "__main__":
    sys.exit(main())
