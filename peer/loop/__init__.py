"""A training loop of your own as a peer."""
