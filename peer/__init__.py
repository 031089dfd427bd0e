"""A living peer, the only layer where things happen."""
