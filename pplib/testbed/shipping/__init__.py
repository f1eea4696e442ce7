"""What travels to a device before anything runs there: our code and a model's."""
