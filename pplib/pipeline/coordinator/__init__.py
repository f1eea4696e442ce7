"""The coordinator: what asks the workers, and on whose clock their answers are put."""
