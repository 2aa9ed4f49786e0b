"""Runs the README's scripts, and an experiment of a guide, on an installed wheel.

cd /somewhere/else && python .ci/smoke.py
"""

import re
import subprocess
import sysconfig
import tempfile
from importlib.metadata import version
from pathlib import Path

import torchrl_moawm

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = Path(torchrl_moawm.__file__).parent
assert ROOT not in PACKAGE.parents, f"{PACKAGE} is the checkout, not an installed wheel."
assert (PACKAGE / "py.typed").exists(), "The wheel lacks py.typed."
for snippet in re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL):
    exec(snippet, {})

guide = (ROOT / "docs" / "pages" / "experiments.md").read_text()
section = guide.split("## Your own scenario of VMAS\n")[1].split("\n## ")[0]
(scenario,) = re.findall(r'```python title="meet.py"\n(.*?)```', section, re.DOTALL)
(line,) = re.findall(r"```bash\n(.*?)\n```", section)
tiny = "total_frames=400 task.max_steps=10 task.model_frames=0 gif=false progress_bar=false"
with tempfile.TemporaryDirectory() as folder:
    Path(folder, "meet.py").write_text(scenario)
    command = Path(sysconfig.get_path("scripts")) / line.split()[0]
    subprocess.run([command, *line.split()[1:], *tiny.split()], cwd=folder, check=True)
    assert list(Path(folder).glob("outputs/moawm/vmas/meet.Meet/*/summary.json"))
print(f"torchrl_moawm {version('torchrl_moawm')} from the wheel runs the README's scripts.")
