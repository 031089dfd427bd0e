"""First contact: found a run, serve it."""
