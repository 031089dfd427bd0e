"""The demo with domains: peers find them, one dies, another takes over, and one model remains."""

from peer.demo.experts.run import run_experts_demo
from peer.demo.experts.script import DEFAULT_STEPS

__all__ = ["DEFAULT_STEPS", "run_experts_demo"]
