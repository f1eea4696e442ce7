"""`python -m pplib.sweep`."""

from __future__ import annotations

import sys

from pplib.sweep.job.command import main

if __name__ == "__main__":
    sys.exit(main())
