"""Command lines, one per make target."""

import os

# Threads that wait for work sleep instead of spinning: on busy cores a spinning thread stops the one it waits for.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # read by PyTorch's OpenMP when torch is imported

# Small models decode in NumPy, in products so small that a second thread costs more than it brings on busy cores.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # read when numpy is imported
