"""Merging: what the contributions of a group become before the outer rule sees them."""

from optim.merge.mean import WeightedMean

__all__ = ["WeightedMean"]
