"""The shared vocabulary of Moatelier: contracts, settings, errors, ids, and what starts the processes."""

import os

__version__ = "0.1.0"

# Read when torch is loaded, and inherited by every process we start: threads that spin while they wait for one another
# made steps of a small model up to 20 times slower where other processes want the cores too (docs/log.md).
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# But they look a moment whether there is more (GNU's runtime): decoding is thousands of short products a second.
os.environ.setdefault("GOMP_SPINCOUNT", "2000")
