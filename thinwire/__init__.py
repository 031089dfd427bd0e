"""Train one model together, over the wires you already have."""

__version__ = "0.1.0"
