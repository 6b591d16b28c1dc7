"""Training of EcoFormer's hash functions in transformers' ``Trainer``, at the first batch of some epochs."""

from contextlib import ExitStack
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ...vision.mixers.attention.hash_training import training_at_the_next_call


class HashTraining(TrainerCallback):
    """Learns the hash functions of a model at the first batch of every ``interval``-th epoch.

    Runs that resume inside an epoch keep what they loaded. The original's settings train once, at the first batch.

    Args:
        interval: epochs from one training to the next.
        **options: see :func:`~seqconv.vision.mixers.attention.hash_training.train_hash`.

    Attributes:
        losses: of the last training, by the names of the layers.
    """

    def __init__(self, interval: int = 300, **options: Any) -> None:
        self.interval, self.options, self.losses = interval, options, dict[str, list[float]]()
        self._waiting = ExitStack()

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Wait for the first batch of the epoch."""
        epoch = state.epoch or 0.0
        if epoch == int(epoch) and int(epoch) % self.interval == 0:
            self.losses = self._waiting.enter_context(training_at_the_next_call(kwargs["model"], **self.options))

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """The first batch has passed."""
        self._waiting.close()

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Wait for no further batch."""
        self._waiting.close()
