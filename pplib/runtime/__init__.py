"""The runtime room: wire format, hops, stage loop, worker and coordinator."""
