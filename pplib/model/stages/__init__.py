"""What a cut leaves on a device: its modules, as data, made quick, and proved."""
