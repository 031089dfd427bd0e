"""The demo: a swarm on this machine that loses a peer, gains one, and loses its bootstrap node."""

from peer.demo.run import run_demo
from peer.demo.script import DEFAULT_STEPS

__all__ = ["DEFAULT_STEPS", "run_demo"]
