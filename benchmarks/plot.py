"""The charts of the benchmarks: those that trainers draw."""

from gateway.training.plot import Bars, Lines

__all__ = ["Bars", "Lines"]
