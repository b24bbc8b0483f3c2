"""once.py COMMAND…: runs it while no other process does so in this folder, whatever started them (`make -j`, two
terminals): what the first use makes is made once, whoever comes first."""

import os
import subprocess
import sys

try:
    import fcntl
except ImportError:  # Windows: one at a time is up to who runs it
    pass
else:
    folder = os.open(".", os.O_RDONLY)
    fcntl.flock(folder, fcntl.LOCK_EX)

sys.exit(subprocess.call(sys.argv[1:]))
