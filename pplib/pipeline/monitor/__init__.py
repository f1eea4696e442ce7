"""What a device is, and what it uses during a trial."""
