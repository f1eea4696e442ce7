"""From any device to one that can run a worker: facts, checks, setup."""
