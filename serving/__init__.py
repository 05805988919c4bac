"""Answers: the embedded engine with its decode loop and server, and a client for any upstream."""

import os

# Before torch is loaded: where other processes want the cores too, OpenMP's threads that spin while they wait for each
# other made a step of the tiny model 10 to 20 times slower.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
