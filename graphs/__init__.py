"""The graphs that decide, the jobs that execute, and the worker that drives both."""
