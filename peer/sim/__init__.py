"""A second driver: the same protocol and mathematics under a virtual clock."""
