"""Golden hashes: what every step makes of nets of many kinds, held fixed across refactorings."""

import os

# One thread for everything that adds up numbers. NumPy reads this when it is first imported.
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"
