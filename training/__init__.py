"""Tuning: one job trains one adapter and seals it into a bundle."""
