"""For the Hugging Face `Trainer`; needs transformers."""

from peer.loop.callback import SwarmCallback

__all__ = ["SwarmCallback"]
