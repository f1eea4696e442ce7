"""The pipeline room: what executes a split network, from the bytes on a socket to the coordinator."""
