"""A model as a graph that other runtimes than eager PyTorch execute."""
