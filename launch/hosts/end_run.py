"""Ends what is left of one launch on this host: exactly the processes that bear its mark, and no others.

DeepSpeed's own cleanup (``pkill -f``) would end every training that was started with the same Python.
"""

from __future__ import annotations

if __name__ == "__main__":  # before anything else is imported: `python -m` has put the working directory first
    from tracestill.data_pipeline.guards.working_directory import leave_working_directory

    leave_working_directory()

import json
import sys

from tracestill.launch.hosts.probe import MARK
from tracestill.trainer.lock.end_marked import end_marked
from tracestill.trainer.ranks.join_ranks import LAUNCH

if __name__ == "__main__":
    print(MARK + json.dumps({"ended": end_marked(json.loads(sys.argv[1])["token"], LAUNCH)}), flush=True)
