"""Faults: signals, full disks, damaged files, odd inputs, a failing hub. All by `make faults`, a part by `make test`.

FAULTS=N is how many signals each script gets; the other tests take their numbers from it, too.
"""

import os

COUNT = int(os.environ.get("FAULTS", "1"))
