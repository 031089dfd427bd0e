"""Where a peer's batches come from: windows of a text in memory, or of one that is streamed."""

from typing import Protocol

from torch import Tensor

from peer.train.batches import BatchStream
from peer.train.data import Corpus, Epochs
from peer.train.window_pool import WindowPool
from protocol.manifest import Manifest


class Batches(Protocol):
    """One peer's endless batches.

    Attributes:
        step: The next batch's number.
    """

    step: int

    def next(self) -> Tensor:
        """Return batch `step`, int64 `[batch_sequences, context + 1]`, and go on to the next."""


def batches_of(corpus: Corpus, manifest: Manifest, peer_id: str) -> Batches:
    """Return a peer's batches of a run's text.

    Raises:
        ConfigError: the text is shorter than one window.
    """
    if corpus.stream is not None:
        return StreamedBatches(corpus.stream, manifest, peer_id)
    return BatchStream(
        corpus.train,
        batch_sequences=manifest.inner.batch_sequences,
        context=manifest.context,
        run_id=manifest.run_id,
        peer_id=peer_id,
    )


class StreamedBatches:
    """Batches of a text that is streamed, from the first one asked for.

    Each life of a peer reads the stream in another order, which follows from the run, the peer and
    the step at which it begins: it goes on with other text, but not where it stopped.

    Args:
        stream: The text.
        manifest: The run.
        peer_id: Whose.
    """

    def __init__(self, stream: Epochs, manifest: Manifest, peer_id: str) -> None:
        self.step = 0
        self._stream = stream
        self._manifest = manifest
        self._owner = f"thinwire stream 1\0{manifest.run_id}\0{peer_id}"
        self._pool: WindowPool | None = None

    def next(self) -> Tensor:
        """Return the next batch; see `Batches`."""
        if self._pool is None:
            self._pool = WindowPool(
                self._stream(f"{self._owner}\0{self.step}"),
                batch_sequences=self._manifest.inner.batch_sequences,
                context=self._manifest.context,
                owner=self._owner,
            )
        self._pool.step = self.step
        batch = self._pool.next()
        self.step = self._pool.step
        return batch

    def close(self) -> None:
        """End the reading."""
        if self._pool is not None:
            self._pool.close()
