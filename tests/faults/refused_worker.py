"""A training in which the kernel refuses a call that a rank makes while it saves: strace sees to it.

refused_worker.py RUN STEP RANK INJECT    the saves after STEP steps are traced into RUN/calls-RANK; INJECT is strace's
expression for RANK's, such as write:error=EIO:when=2, or none
"""

import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from tracestill.trainer import checkpoint, train
from tracestill.trainer.engine import leave

CALLS = "write,fsync,fdatasync,/^rename"
root, step, rank, inject = sys.argv[-4:]  # after what the launcher adds
plain = checkpoint.write


def write(held: checkpoint.Snapshot, *arguments: Any, **more: Any) -> Path:
    """The save itself, untouched, with strace attached to the thread that makes it, and to no other."""
    if held.step == int(step):
        thread = threading.get_native_id()
        command = ["strace", "-y", "-o", f"{root}/calls-{held.rank}", "-e", f"trace={CALLS}", "-p", str(thread)]
        refused = ["-e", f"inject={inject}"] if held.rank == int(rank) and inject != "none" else []
        subprocess.Popen([*command, *refused], stderr=subprocess.DEVNULL)
        while "TracerPid:\t0\n" in Path(f"/proc/self/task/{thread}/status").read_text():
            time.sleep(0.01)
    return plain(held, *arguments, **more)


checkpoint.write = write
sys.argv = [sys.argv[0], "--run-dir", root, "--resume", "auto"]
if __name__ == "__main__":
    leave(train.main())
