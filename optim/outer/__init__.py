"""The outer rules: what becomes of the average."""
