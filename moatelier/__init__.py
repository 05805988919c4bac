"""The shared vocabulary of Moatelier: contracts, settings, errors, ids, and what starts the processes."""

__version__ = "0.1.0"
