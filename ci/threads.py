"""One thread per linear-algebra call, for every program of ours.

Our matrices are small: threads inside BLAS cost more than they give, fight with the workers that
share the machine, and change the last bits of a sum. Parallel work is spread over episodes and
processes instead. Call before numpy is imported; a value that the user set stands.
"""

from __future__ import annotations

import os

VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")


def one_per_call() -> None:
    """Sets the variables that BLAS libraries read when they are loaded."""
    for name in VARIABLES:
        os.environ.setdefault(name, "1")
