"""The model room: zoo, partition, weights, data and profiling."""
