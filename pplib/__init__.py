"""ParetoPipe: measure every cut of a neural network on real devices and show the Pareto front."""

__version__ = "0.1.0"
