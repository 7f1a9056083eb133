"""Runs the README's commands as they stand, in a clone in which the pipeline has run on the tiny set."""

import re
import shlex
import shutil
import subprocess
from pathlib import Path

# What this machine cannot do, or does elsewhere, by how the command begins.
NOT_HERE = {
    "make": "sets up this very run",
    "source": "is done by .ci/run",
    "ln -s": "links VGAF",
    "dvc exp run -S dataset=vgaf": "needs VGAF",
    "dvc exp run -S launch=": "needs a GPU",
    "accelerate launch --config_file configs/accelerate/multi_node.yaml": "needs machines; test_distributed.py",
    "sbatch": "needs Slurm",
    "python -m stages.fetch_weights": "needs a network; tests/stages/test_fetch_weights.py",
    "python -m stages.app": "serves until it is stopped; tests/serving/test_page.py",
}

text = Path("README.md").read_text()
blocks = re.findall(r"^```bash\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
commands = [command.split("#")[0].strip() for line in lines for command in line.split("&&")]
unused = [start for start in NOT_HERE if not any(command.startswith(start) for command in commands)]
assert not unused, f"the README has no command that begins with {unused}"
commands = [command for command in commands if command and not command.startswith(tuple(NOT_HERE))]

for place in ("runs/demo", "runs/vgaf", "data/shards/demo"):
    Path(place).symlink_to("tiny")
clips = sorted(Path("data/tiny/Val").glob("*.mp4"))
for place in ("folder", "data/vgaf/Test"):
    Path(place).mkdir(parents=True)
for clip, copy in zip(clips, ("clip.mp4", "long.mp4", "folder/a.mp4", "data/vgaf/Test/Test_1.mp4"), strict=False):
    shutil.copy(clip, copy)

experiments = [command for command in commands if command.startswith("dvc exp run")]
named = [f"{command} -n {name} -S dataset=tiny" for command, name in zip(experiments, ("exp-a", "exp-b"), strict=True)]
for command in [*named, *(command for command in commands if command not in experiments)]:
    print("$", command, flush=True)
    subprocess.run(shlex.split(command), check=True, stdout=subprocess.DEVNULL)
