"""Watching a swarm, from inside or outside: what `status` and the web page show."""
