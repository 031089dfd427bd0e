"""A run's model for people who have no thinwire: safetensors, and where it fits, transformers."""
