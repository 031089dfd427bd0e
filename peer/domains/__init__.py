"""Runs with domains: which one a peer trains in, and the states of the others that it keeps."""
