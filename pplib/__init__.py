"""ParetoPipe: measure every cut of a neural network on real devices and show the Pareto front."""

from pathlib import Path

__version__ = "0.1.0"
ROOT = Path(__file__).resolve().parents[1]  # of the checkout; on a device, of our code there
