"""Real processes: on one machine, and on two machines, which are network namespaces with their own addresses."""

import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import psutil
import pytest
import yaml
from helpers import REPOSITORY
from launches import ACCELERATE, LAUNCH_FILES, TIMEOUT_S, Place, end

from pipeline.common.accelerator import start_accelerator
from pipeline.common.errors import EXIT_STOPPED, EXIT_USER_ERROR, UserError
from pipeline.training.checkpoint import latest_step

ADDRESSES = {"a": "10.213.7.1", "b": "10.213.7.2"}


@pytest.fixture
def place(workspace, tmp_path):
    place = Place(tmp_path, *workspace)
    yield place
    end(place)


@pytest.fixture(scope="module")
def alone(workspace, tmp_path_factory):
    """The result of one process after two epochs."""
    place = Place(tmp_path_factory.mktemp("alone"), *workspace)
    place.run("cpu", "train")
    place.run("cpu", "evaluate")
    return place


def assert_same_results(place, alone):
    assert place.losses == pytest.approx(alone.losses, abs=1e-5)
    ids = [row["clip_id"] for row in place.predictions]
    assert len(ids) == len(set(ids)) == 9, "every val clip once"
    for row, expected in zip(place.predictions, alone.predictions, strict=True):
        assert row["clip_id"] == expected["clip_id"]
        for name in ("positive", "neutral", "negative"):
            assert float(row[name] or "nan") == pytest.approx(float(expected[name] or "nan"), abs=1e-5, nan_ok=True)


@pytest.mark.slow
def test_two_processes_give_what_one_gives(place, alone):
    place.run("multi_cpu", "train")
    place.run("multi_cpu", "evaluate")
    assert_same_results(place, alone)


@pytest.mark.slow
def test_two_processes_give_what_one_gives_where_batch_norm_is_over_groups_of_clips(workspace, place, tmp_path_factory):
    single = Place(tmp_path_factory.mktemp("single"), *workspace)
    for each, launch in ((single, "cpu"), (place, "multi_cpu")):
        each.set(norm_clips=2, batch_size=4)
        each.run(launch, "train")
    assert place.losses == pytest.approx(single.losses, abs=1e-5)


@pytest.mark.slow
def test_two_processes_train_all_seeds_in_one_launch(place):
    values = yaml.safe_load((place.folder / "params.yaml").read_text())
    (place.folder / "params.yaml").write_text(yaml.safe_dump(values | {"seeds": [0, 1]}))
    place.run("multi_cpu", "train")
    assert {path.parent.name for path in (place.folder / "runs/demo/demo").glob("*/run.json")} == {"seed-0", "seed-1"}


@pytest.mark.slow
def test_the_dropout_of_streams_and_clips_without_sound_train_on_two_processes(place):
    augmentation = place.config.recipe.training.augmentation.model_dump()
    place.set(augmentation={**augmentation, "drop": {"scene": 0.5, "sound": 0.499}})
    place.run("multi_cpu", "train")
    assert all(value.isfinite().all() for value in place.weights.values())


@pytest.mark.slow
def test_a_training_continues_with_another_number_of_processes_when_told_so(place, alone):
    process = place.start(sys.executable, "-m", "stages.train")
    place.wait_for_checkpoint()
    process.terminate()
    assert process.wait(timeout=60) == EXIT_STOPPED
    refused = place.launch("multi_cpu", "train").communicate(timeout=60)[0]
    assert "number of processes: 1 -> 2" in refused
    options = (*ACCELERATE, "--config_file", str(LAUNCH_FILES / "multi_cpu.yaml"), "-m", "stages.train")
    output, (code,) = finish([place.start(*options, "--resume", "changed")])
    assert code == 0, output
    assert place.losses == pytest.approx(alone.losses, abs=1e-5)


@pytest.fixture
def nodes():
    """Two network namespaces that reach each other: for each, the command that runs something in it."""
    names = {node: f"ge-{os.getpid()}-{node}" for node in ADDRESSES}

    def ip(*arguments):
        return subprocess.run(["ip", *arguments], capture_output=True, text=True, check=True)

    if not shutil.which("ip"):
        pytest.skip("needs the ip command (Debian: iproute2)")
    try:
        for name in names.values():
            ip("netns", "add", name)
        ip("link", "add", "ge0", "netns", names["a"], "type", "veth", "peer", "name", "ge0", "netns", names["b"])
        for node, name in names.items():
            ip("-n", name, "addr", "add", f"{ADDRESSES[node]}/24", "dev", "ge0")
            for device in ("ge0", "lo"):
                ip("-n", name, "link", "set", device, "up")
        yield {node: ("ip", "netns", "exec", name) for node, name in names.items()}
    except subprocess.CalledProcessError as error:
        pytest.skip(f"network namespaces are not permitted here: {error.stderr.strip()}")
    finally:
        for name in names.values():
            subprocess.run(["ip", "netns", "del", name], capture_output=True)


def on_both(place, nodes, stage, processes=2):
    """The launchers of both machines, as a user starts them, on the CPU."""
    return [
        place.launch(
            "multi_node",
            stage,
            *("--num_processes", str(processes), "--machine_rank", str(rank), "--main_process_ip", ADDRESSES["a"]),
            prefix=nodes[node],
            ACCELERATE_USE_CPU="true",
            GLOO_SOCKET_IFNAME="ge0",
        )
        for rank, node in enumerate(nodes)
    ]


def finish(processes, timeout_s=120):
    output = [process.communicate(timeout=timeout_s)[0] for process in processes]
    return output, [process.returncode for process in processes]


@pytest.mark.slow
def test_two_machines_give_what_one_process_gives(place, alone, nodes):
    for stage in ("train", "evaluate"):
        output, codes = finish(on_both(place, nodes, stage))
        assert codes == [0, 0], output
    assert_same_results(place, alone)


@pytest.mark.slow
def test_a_killed_process_ends_both_machines_with_a_message_and_the_same_commands_continue(place, nodes):
    place.set(epochs=60)
    launchers = on_both(place, nodes, "train")
    place.wait_for_checkpoint(after=6)
    (victim,) = [
        child
        for child in psutil.Process(launchers[1].pid).children(recursive=True)
        if "stages.train" in child.cmdline() and child.ppid() == launchers[1].pid
    ]
    victim.kill()
    killed = time.monotonic()
    output, codes = finish(launchers, timeout_s=TIMEOUT_S + 30)
    assert 0 not in codes
    assert time.monotonic() - killed < TIMEOUT_S + 30
    assert "another process of this launch ended" in output[0]
    assert "SIGKILL" in output[1] or "Signal 9" in output[1]
    output, codes = finish(on_both(place, nodes, "train"))
    assert codes == [0, 0], output
    assert "continuing after step" in output[0]


def assert_ended(processes):
    _, alive = psutil.wait_procs(processes, timeout=60)
    for process in alive:
        process.kill()
    assert not alive


@pytest.mark.slow
@pytest.mark.parametrize("how", ["cpu", "multi_cpu"])
def test_sigterm_to_the_launcher_saves_and_leaves_no_process(place, how):
    place.set(epochs=1000, checkpoint_minutes=60)
    process = place.launch(how, "train")
    place.wait_for_checkpoint()
    children = psutil.Process(process.pid).children(recursive=True)
    before = latest_step(place.folder / "checkpoints/demo/demo/seed-0")
    time.sleep(0.5)
    process.send_signal(signal.SIGTERM)
    process.wait(timeout=60)
    assert_ended(children)
    assert latest_step(place.folder / "checkpoints/demo/demo/seed-0") > before


@pytest.mark.slow
def test_ctrl_c_under_dvc_saves_and_prints_one_sentence(place):
    place.set(epochs=1000, checkpoint_minutes=60)
    (seed_0,) = yaml.safe_load((REPOSITORY / "dvc.yaml").read_text())["stages"]["train"]["cmd"].split(";")[:1]
    command = f"{seed_0}; exec {shlex.join([*ACCELERATE, '--quiet', '--config_file', str(LAUNCH_FILES / 'cpu.yaml')])}"
    process = place.start("sh", "-c", f"{command} -m stages.train", start_new_session=True)
    place.wait_for_checkpoint()
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "seed 0 is saved after" in output
    assert "Traceback" not in output


@pytest.mark.slow
def test_a_launcher_that_is_stopped_at_once_takes_its_process_with_it(place):
    place.set(epochs=1000)
    process = place.launch("cpu", "train")
    while not (children := psutil.Process(process.pid).children()):
        time.sleep(0.01)
    time.sleep(1)
    process.send_signal(signal.SIGTERM)
    process.wait(timeout=10)
    assert_ended(children)


@pytest.mark.slow
def test_sigterm_ends_the_process_with_its_own_code(place):
    place.set(epochs=1000, checkpoint_minutes=60)
    process = place.start(sys.executable, "-m", "stages.train")
    place.wait_for_checkpoint()
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == EXIT_STOPPED, output
    assert "run the same command again to continue" in output
    assert "Traceback" not in output


@pytest.mark.slow
def test_fewer_processes_than_asked_for_is_an_error(place):
    process = place.start(*ACCELERATE, "--cpu", "--num_processes", "2", "-m", "stages.train")
    output, _ = process.communicate(timeout=60)
    assert f"exit status {EXIT_USER_ERROR}" in output
    assert "accelerate launch was asked for 2 processes and 1 run" in output


@pytest.mark.slow
def test_processes_that_two_machines_cannot_share_evenly_are_an_error(place, nodes):
    output, codes = finish(on_both(place, nodes, "train", processes=3))
    assert 0 not in codes
    assert "num_processes is 3 for 2 machines, expected a multiple of 2: it counts the processes of all" in output[0]


@pytest.mark.slow
def test_two_trainings_run_beside_each_other_and_a_second_one_in_the_same_folder_is_refused(
    place, workspace, tmp_path_factory
):
    other = Place(tmp_path_factory.mktemp("other"), *workspace)
    place.set(epochs=1000, checkpoint_minutes=60)
    running = place.launch("multi_cpu", "train")
    place.wait_for_checkpoint()
    for process in [*psutil.Process(running.pid).children(recursive=True), psutil.Process(running.pid)]:
        process.suspend()  # it keeps its port and its folder, and leaves the cores to the others
    assert "in use" not in other.run("multi_cpu", "train")
    end(other)
    refused = place.launch("multi_cpu", "train").communicate(timeout=60)[0]
    assert "another training is writing to checkpoints/demo/demo/seed-0; wait for it, or stop it" in refused


@pytest.mark.slow
def test_a_port_that_is_taken_is_named(place):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = str(other.getsockname()[1])
        process = place.start(
            *(sys.executable, "-m", "stages.train"),
            RANK="0",
            LOCAL_RANK="0",
            WORLD_SIZE="2",
            MASTER_ADDR="127.0.0.1",
            MASTER_PORT=port,
            ACCELERATE_USE_CPU="true",
        )
        output, _ = process.communicate(timeout=60)
    assert process.returncode == EXIT_USER_ERROR
    assert f"port {port} is taken on this machine" in output


SILENT_SECOND = """
import time
from pipeline.common.config import load_config
from pipeline.common.accelerator import names_a_lost_process, start_accelerator
from pipeline.common.errors import exits_with_one_sentence

@exits_with_one_sentence
def main():
    config = load_config()
    accelerator = start_accelerator(config)
    time.sleep(1000 * accelerator.process_index)
    with names_a_lost_process(config.execution.process_timeout_s):
        accelerator.wait_for_everyone()

main()
"""


@pytest.mark.slow
def test_a_silent_process_is_waited_for_no_longer_than_the_settings_say(place):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    together = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": f"{port}", "ACCELERATE_USE_CPU": "true"}
    first, _ = (
        place.start(sys.executable, "-c", SILENT_SECOND, RANK=rank, LOCAL_RANK=rank, **together) for rank in "01"
    )
    output, _ = first.communicate(timeout=TIMEOUT_S + 60)
    assert first.returncode == EXIT_USER_ERROR, output
    assert f"another process of this launch ended, or was silent for {TIMEOUT_S:.0f} s" in output


SRUN = """#!/usr/bin/env bash
# Stands for Slurm's: runs its command once per task, and exits with the highest of their codes.
shift
for task in $(seq 0 $((SLURM_NTASKS - 1))); do SLURM_PROCID=$task SLURM_LOCALID=$task "$@" & tasks+=($!); done
highest=0
for task in "${tasks[@]}"; do code=0; wait "$task" || code=$?; [ "$code" -gt "$highest" ] && highest=$code; done
exit "$highest"
"""
SCONTROL = """#!/usr/bin/env bash
if [ "$1" = requeue ]; then echo "requeued $2"; else echo 127.0.0.1; fi
"""


@pytest.mark.slow
def test_the_slurm_script_trains_on_all_tasks_and_requeues_a_stopped_job(place):
    programs = place.folder / "bin"
    programs.mkdir()
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL)):
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    path = f"{programs}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    slurm = {
        "SLURM_NTASKS": "2",
        "SLURM_JOB_NODELIST": "here",
        "SLURM_JOB_ID": "7",
        "SLURM_CPUS_PER_TASK": "1",
        "ACCELERATE_USE_CPU": "true",
    }
    place.set(epochs=1000, checkpoint_minutes=60)
    job = place.start("bash", str(LAUNCH_FILES / "slurm.sbatch"), PATH=path, **slurm)
    place.wait_for_checkpoint()
    for child in psutil.Process(job.pid).children(recursive=True):
        if "stages.train" in child.cmdline():
            child.terminate()
    output, _ = job.communicate(timeout=60)
    assert job.returncode == EXIT_STOPPED, output
    assert "requeued 7" in output


def with_settings(config, execution=None, **training):
    recipe = config.recipe.model_copy(update={"training": config.recipe.training.model_copy(update=training)})
    return config.model_copy(
        update={"recipe": recipe, "execution": config.execution.model_copy(update=execution or {})}
    )


def test_fp16_is_refused_on_a_cpu(config, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    with pytest.raises(UserError, match=r"training\.mixed_precision is fp16, which a CPU cannot train in"):
        start_accelerator(with_settings(config, mixed_precision="fp16"))


def test_scoring_needs_neither_fp16_nor_a_tracker(config, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    settings = with_settings(config, {"trackers": ["mlflow"]}, mixed_precision="fp16")
    assert start_accelerator(settings, trains=False).mixed_precision == "no"


@pytest.mark.skipif(find_spec("mlflow") is not None, reason="mlflow is installed")
def test_a_tracker_that_is_not_installed_is_an_error(config, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    with pytest.raises(
        UserError, match=r"execution\.trackers names mlflow, but mlflow is not installed: run \.uv/bin/uv pip"
    ):
        start_accelerator(with_settings(config, {"trackers": ["tensorboard", "mlflow"]}))
