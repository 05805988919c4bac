"""Evaluation: scores with intervals, the gate that alone reads locked rows, and the report of a task."""
