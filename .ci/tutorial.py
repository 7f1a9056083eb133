"""Runs the commands of docs/tutorial.md as they are written, on the tiny set and with two epochs."""

import re
import subprocess
from pathlib import Path

Path("data/demo").symlink_to("tiny")  # the tutorial borrows the clips of the demo
blocks = re.findall(r"^```bash\n(.*?)^```", Path("docs/tutorial.md").read_text(), re.DOTALL | re.MULTILINE)
for block in blocks:
    commands = block.replace("-S folds=3", "-S folds=3 -S recipe.training.epochs=2")
    print(commands, flush=True)
    subprocess.run(["bash", "-ec", commands], check=True, stdout=subprocess.DEVNULL)
