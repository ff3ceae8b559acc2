"""An epoch: batch by batch, update by update, and the places in it where a run can be saved."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from quench.context import SIGNALS, Context, signals
from quench.datasets import Batch
from quench.models import batch_norms
from quench.randomness import PERTURBATION, generator
from quench.ranks import Ranks
from quench.training.batches import Feed, batches_per_epoch
from quench.training.clock import SharedReading
from quench.training.overfitting import Watch
from quench.training.recipe import Recipe
from quench.training.state import TrainState, Within


@dataclass
class Training:
    """What carries out a recipe's epochs on one of its workers."""

    state: TrainState
    model: nn.Module
    """the state's, compiled and wrapped as the recipe and the workers ask for"""
    recipe: Recipe
    examples: int
    """training images"""
    feed: Feed
    ranks: Ranks
    watch: Watch
    save: Callable[[], None] | None

    def over(self) -> bool:
        """Whether the budget is spent, or the patience."""
        state, recipe = self.state, self.recipe
        tired = recipe.patience and state.epoch - state.best_epoch >= recipe.patience
        return bool(tired) or self.progress() >= 1

    def progress(self) -> float:
        """The share of the budget that is spent; 1 or above at its end."""
        return self.recipe.budget.progress(self.state.epoch, SharedReading(self.state.clock, self.ranks))

    def epoch(self) -> dict[str, float]:
        """One pass over the images, what is left of it, or what the budget allows; the means of its signals."""
        state, recipe, ranks = self.state, self.recipe, self.ranks
        with state.clock.running():
            self.model.train()
            if recipe.batch_norm == "frozen":
                for layer in batch_norms(self.model):
                    layer.eval()
            context, seen = self._begin()
            count, seconds = batches_per_epoch(self.examples, context.rows), SharedReading(state.clock, ranks)
            due = Every(recipe.checkpoints.seconds, SharedReading(state.clock, ranks))
            done = context.number
            for batch in self.feed(state.epoch, ranks, done):
                context.number = done
                context.progress = recipe.budget.progress(state.epoch + done / count, seconds)
                if (context.progress >= 1 and seen) or self.watch.lost:
                    break
                seen += self._learn_from(batch, context)
                done += 1
                if self.save is not None and due() and done < count:
                    with state.clock.paused():
                        observed = self._gather(context, seen)
                        state.within = Within(done, context.rng.get_state(), observed)
                        self.save()
                        state.within = None
            observed = self._gather(context, seen)
        state.epoch += 1
        means = signals(observed).tolist()
        return {name: value for name, value in zip(SIGNALS, means, strict=True) if value == value or name == "loss"}

    def _begin(self) -> tuple[Context, list[Tensor]]:
        """The epoch's context, and what was observed in it so far: at its beginning, or where it was saved."""
        state, recipe, ranks = self.state, self.recipe, self.ranks
        context = Context(
            generator(state.device, recipe.seed, PERTURBATION, state.epoch, 0),
            recipe.crafting_statistics,
            recipe.label_smoothing,
            state.memory,
            {name: value[ranks.share(len(value))] for name, value in state.places.items()},
            self.examples,
            epoch=state.epoch,
            ranks=ranks,
            rows=recipe.stage(state.epoch).batch_size,
        )
        if state.within is None:
            return context, []
        within, state.within = state.within, None
        context.number = within.batches
        context.rng.set_state(within.rng)
        # Of all workers together: one of them adds it to what is still to come.
        observed = within.observed if ranks.rank == 0 else torch.zeros_like(within.observed)
        return context, list(observed.to(state.device))

    def _learn_from(self, batch: Batch, context: Context) -> list[Tensor]:
        """The updates that a batch is worth, and what was observed of each."""
        recipe, state = self.recipe, self.state
        threat, seen = recipe.threat, list[Tensor]()
        self.watch.armed = context.progress >= recipe.epsilon_warmup
        if not self.watch.armed:
            share = max(context.progress / recipe.epsilon_warmup, 0.01)
            threat = replace(threat, epsilon=share * threat.epsilon)
        for group in state.optimizer.param_groups:
            group["lr"] = recipe.learning_rate(context.progress)
        half = torch.autocast(state.device.type, torch.bfloat16, enabled=recipe.precision == "bfloat16")
        losses = recipe.guard.eased(recipe.method, state.rollbacks).losses(self.model, batch, threat, context)
        while True:
            with half:
                loss = next(losses, None)
            if loss is None:
                return seen
            seen.append(self._update(loss, context))
            self.watch.after_update(seen[-1])

    def _update(self, loss: Tensor, context: Context) -> Tensor:
        """One optimizer update, and what it lets one observe."""
        state = self.state
        state.optimizer.zero_grad()
        loss.backward()
        observed = context.observe(self.recipe.threat.norm)
        state.optimizer.step()
        state.updates += 1
        if state.averaged is not None:
            state.averaged.update_parameters(state.model)
        return observed

    def _gather(self, context: Context, seen: list[Tensor]) -> Tensor:
        """Make the state that of all workers; returns what they observed together, `(updates, 6)`."""
        state, ranks = self.state, self.ranks
        for module in [state.model] if state.averaged is None else [state.model, state.averaged]:
            # BatchNorm's running statistics: each rank has seen its own share.
            ranks.average_(buffer for buffer in module.buffers() if buffer.is_floating_point())
        state.places = {name: ranks.whole(value, context.rows) for name, value in context.shares.items()}
        return ranks.total(torch.stack(seen))


class Every:
    """True once whenever another `seconds` have gone by on a clock; 0 for never, and the clock is not asked."""

    def __init__(self, seconds: float, clock: Callable[[], float]) -> None:
        self._seconds, self._clock = seconds, clock
        self._last = clock() if seconds else 0.0

    def __call__(self) -> bool:
        if not self._seconds or (now := self._clock()) < self._last + self._seconds:
            return False
        self._last = now
        return True
