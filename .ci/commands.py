"""Runs the commands of the README and of docs/commands.md as they are written.

It does so in a clone in which the pipeline has run on the tiny set.
"""

import re
import shutil
import subprocess
from pathlib import Path

# Commands that are not run, by how they begin, and why.
SKIPPED = {
    "make": "sets up this very run",
    "source": ".ci/run does it",
    "ln -s": "links VGAF",
    "dvc exp run -S dataset=vgaf": "needs VGAF",
    "dvc exp run -S launch=": "needs a GPU",
    "python -m stages.fetch_weights": "needs a network; see tests/stages/test_fetch_weights.py",
    "python -m stages.app": "serves until it is stopped; see tests/serving/test_page.py",
}

text = "".join(Path(page).read_text() for page in ("README.md", "docs/commands.md"))
blocks = re.findall(r"^```bash\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
commands = [command.split("#")[0].strip() for line in lines for command in line.split("&&")]
unused = [start for start in SKIPPED if not any(command.startswith(start) for command in commands)]
assert not unused, f"no command of these pages begins with {unused}; remove them from SKIPPED"
commands = [command for command in commands if command and not command.startswith(tuple(SKIPPED))]

# The folders and files that the commands name.
for link, target in {
    "runs/demo": "tiny",
    "runs/vgaf": "tiny",
    "runs/tiny/paper": "demo",
    "data/shards/demo": "tiny",
}.items():
    Path(link).symlink_to(target)
for folder in ("folder", "data/vgaf/Test"):
    Path(folder).mkdir(parents=True)
clips = sorted(Path("data/tiny/Val").glob("*.mp4"))
for clip, copy in zip(clips, ("clip.mp4", "long.mp4", "folder/a.mp4", "data/vgaf/Test/Test_1.mp4"), strict=False):
    shutil.copy(clip, copy)

# Experiments come first, with the names that the other commands use. Two epochs of the tiny set show that they run.
experiments = [command for command in commands if command.startswith("dvc exp run")]
short = "-S dataset=tiny -S recipe.training.epochs=2"
named = [f"{command} -n {name} {short}" for command, name in zip(experiments, ("exp-a", "exp-b"), strict=True)]
for command in [*named, *(command for command in commands if command not in experiments)]:
    print("$", command, flush=True)
    subprocess.run(["bash", "-c", command], check=True, stdout=subprocess.DEVNULL)
