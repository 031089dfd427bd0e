"""The Hugging Face `Trainer` as a peer: it joins when training begins, and leaves at the end.

    trainer = Trainer(model=model, args=args, train_dataset=data,
                      callbacks=[SwarmCallback(ticket, dir="peer-1")])
    trainer.train()

Checkpoints, logs and evaluations of the `Trainer` stay as they are, and its own. They show the live
model; the anchor is in the peer's folder.
"""

from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from peer.loop.joining import join
from peer.loop.swarm import Swarm


class SwarmCallback(TrainerCallback):  # type: ignore[misc]
    """See the module docstring.

    Tokens are those that the `Trainer` counts, with `include_num_input_tokens_seen="all"` (or
    "non_padding") in its arguments; without, each sequence counts as one, so it is set by all peers
    of a run or by none.

    Args:
        ticket: As for `thinwire.join`.
        options: As for `thinwire.join`, except `model` and `optimizer`.

    Attributes:
        swarm: From the beginning of training on; it stays to be looked at when it is left.
    """

    def __init__(self, ticket: str | None = None, **options: Any) -> None:
        self.swarm: Swarm | None = None
        self._ticket = ticket
        self._options = options
        self._seen_tokens = 0
        self._loss: float | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Join with the trainer's model and optimizer."""
        self._seen_tokens = int(state.num_input_tokens_seen)
        optimizer = kwargs["optimizer"]
        optimizer = getattr(optimizer, "optimizer", optimizer)  # within accelerate's
        self.swarm = join(self._ticket, model=kwargs["model"], optimizer=optimizer, **self._options)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Count the optimizer's step."""
        if self.swarm is None:
            return
        seen_tokens = int(state.num_input_tokens_seen)
        tokens, self._seen_tokens = seen_tokens - self._seen_tokens, seen_tokens
        # The trainer counts all ranks' tokens on each of them, the swarm adds up those of each.
        self.swarm.step(tokens // args.world_size or _sequences(args), self._loss)
        self._loss = None
        if self.swarm.is_done:
            control.should_training_stop = True

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Take note of the loss: the next step tells it."""
        self._loss = (kwargs.get("logs") or {}).get("loss")

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Leave in order. After an exception the swarm is left when Python ends."""
        self.leave()

    def leave(self) -> None:
        """Leave in order now; needed only after an exception, where Python goes on."""
        if self.swarm is not None:
            self.swarm.leave()


def _sequences(args: TrainingArguments) -> int:
    """Returns the sequences of one step on this rank."""
    return int(args.train_batch_size) * int(args.gradient_accumulation_steps)
