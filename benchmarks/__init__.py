"""Measurements; each script prints one JSON object on standard output."""
