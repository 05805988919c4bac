"""Tuning: one job trains one adapter and seals it into a bundle."""

from moatelier import __version__ as __version__  # before torch: it sets how OpenMP's threads wait
