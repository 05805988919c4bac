"""Answers: the embedded engine with its decode loop and server, and a client for any upstream."""

from moatelier import __version__ as __version__  # before torch: it sets how OpenMP's threads wait
