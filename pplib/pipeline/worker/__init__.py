"""The worker: one process per device."""
