"""Stop signals (Ctrl-C, SIGTERM of a preempted machine) as a request that the loop honours between two steps."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self

import torch
from accelerate import Accelerator

__all__ = ["Interrupt"]

_EVERY = 10
"""Processes agree on a stop every so many steps; asking at each step would synchronise them for nothing."""


class Interrupt:
    """Catch the first stop signal; a second one acts at once."""

    def __init__(self) -> None:
        self._caught = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._catch)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _catch(self, number: int, frame: FrameType | None) -> None:
        self._caught = True
        signal.signal(number, self._before[number])

    def requested(self, accelerator: Accelerator, step: int) -> bool:
        """Whether to stop after this step; all processes get the same answer."""
        if accelerator.num_processes == 1:
            return self._caught
        if step % _EVERY:
            return False
        flag = torch.tensor(int(self._caught), device=accelerator.device)
        return bool(accelerator.reduce(flag, reduction="sum").item())
