"""Trains a team on a task: ``moawm-train`` with the benchmark's own tasks and algorithms.

    python benchmarks/train.py task=vmas/navigation algorithm=moawm seed=0 total_frames=60000
    python benchmarks/train.py resume=outputs/moawm/vmas/navigation/seed0-...

What it takes and what it leaves behind: README.md, beside it.
"""

import partners  # noqa: F401  tasks and algorithms with hidden partners, and the folder conf/
from torchrl_moawm.train.command import main

if __name__ == "__main__":
    main()
