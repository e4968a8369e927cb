"""How a training goes: a line that is rewritten on a terminal, a plain line now and then elsewhere."""

import sys
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from Models.learning.training import State

LINE_SECONDS = 10.0  # of a progress line, within an epoch


class Meter:
    """Tells of an epoch of the training whose state it is given."""

    def __init__(self, epoch: int, epochs: int, steps: int, state: "State") -> None:
        self.epoch, self.epochs, self.steps, self.state = epoch, epochs, steps, state
        self.start = self.last = time.monotonic()
        self.first_step, self.images = state.step, 0

    def tick(self, images: int) -> None:
        """Call it after each step."""
        self.images += images
        live = sys.stderr.isatty()
        if time.monotonic() - self.last > (0.2 if live else LINE_SECONDS):
            self.last = time.monotonic()
            done = self.state.step - self.epoch * self.steps
            loss = self.state.sums["loss"] / done
            print(f"{self._place()} step {done}/{self.steps}  loss {loss:.3f}  {self._speed()}", **_ending(live))

    def epoch_line(self) -> None:
        """Call it after each epoch."""
        row = self.state.history[-1]
        measured = "  ".join(f"{name} {row[name]:.3f}" for name in row if name == "loss" or not _is_part(name))
        print(f"{self._place()}  {measured}  {self._speed()}", **_ending(False))

    def _place(self) -> str:
        clear = "\r\033[K" if sys.stderr.isatty() else ""
        return f"{clear}epoch {self.epoch + 1}/{self.epochs}"

    def _speed(self) -> str:
        seconds = max(1e-9, time.monotonic() - self.start)
        left = (self.epochs * self.steps - self.state.step) * seconds / max(1, self.state.step - self.first_step)
        return f"{self.images / seconds:.0f} images/s  {left:.0f} s left"


def _is_part(name: str) -> bool:
    return name in ("step", "epoch", "learning_rate") or name.endswith("_loss")


def _ending(live: bool) -> dict[str, Any]:
    return {"end": "" if live else "\n", "file": sys.stderr, "flush": True}
