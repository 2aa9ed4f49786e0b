"""Runs the README's scripts on an installed wheel.

cd /somewhere/else && python .ci/smoke.py
"""

import re
from importlib.metadata import version
from pathlib import Path

import torchrl_moawm

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = Path(torchrl_moawm.__file__).parent
assert ROOT not in PACKAGE.parents, f"{PACKAGE} is the checkout, not an installed wheel."
assert (PACKAGE / "py.typed").exists(), "The wheel lacks py.typed."
for snippet in re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL):
    exec(snippet, {})
print(f"torchrl_moawm {version('torchrl_moawm')} from the wheel runs the README's scripts.")
