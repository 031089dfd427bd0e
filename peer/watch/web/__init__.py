"""The page of a swarm, for a browser: its server, and the files that it serves."""
