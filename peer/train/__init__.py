"""The trainer: model, data, inner steps."""
