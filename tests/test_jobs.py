"""jobs/: every file is run as far as that goes without its cluster, with stand-ins for what only a cluster has.

SLURM's commands are stand-ins that keep to what SLURM does with signals. Where only the launching is of interest, a few
lines stand in for the script too, which note what they were started with.
"""

import importlib
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from tests.helpers import ROOT, plain, read

JOBS = ROOT / "jobs"
SLURM = sorted(path.name for path in JOBS.glob("*.sh"))
ACCELERATE = sorted(path.name for path in (JOBS / "accelerate").glob("*.yaml"))

SCRIPT = """
import json, os, signal, sys, time
from pathlib import Path

stopped = []
signal.signal(signal.SIGTERM, lambda *_: stopped.append(1))
rank = os.environ.get("RANK", "0")
if "--wait" in sys.argv and not Path("checkpoint").exists():
    Path(f"waiting-{rank}").touch()
    while not stopped:
        time.sleep(0.02)
    if rank == "0":
        time.sleep(0.5)  # a checkpoint takes its time
        Path("checkpoint").touch()
    sys.exit(143)
Path(f"rank-{rank}.json").write_text(json.dumps({"arguments": sys.argv[1:], "environment": dict(os.environ)}))
"""

# A SIGTERM that srun itself gets is not passed on: it kills the tasks (srun_job.c, "forcing job termination").
SRUN = """#!/bin/bash
echo "srun $*" >>slurm.log
while [[ "$1" == --* ]]; do shift; done
pids=()
trap 'kill -KILL "${pids[@]}"' TERM
for _ in ${NODES:-here}; do
    "$@" &
    pids+=($!)
done
echo "${pids[@]}" >tasks
status=0
for pid in "${pids[@]}"; do wait "$pid" || status=$?; done
exit "$status"
"""
SCANCEL = """#!/bin/bash
echo "scancel $*" >>slurm.log
kill -TERM $(cat tasks)
"""
SCONTROL = """#!/bin/bash
if [ "$1 $2" = "show hostnames" ]; then printf '%s\\n' $NODES; else echo "scontrol $*" >>slurm.log; fi
"""


@pytest.fixture
def project(tmp_path) -> Path:
    """The project's folder as a job finds it: with .venv in it, and SLURM's commands on the path."""
    if not (Path(sys.prefix) / "bin" / "activate").is_file():
        pytest.skip("the jobs want a virtual environment, and this Python has none")
    folder = tmp_path / "project"
    folder.mkdir()
    for path in ROOT.iterdir():
        if path.name not in (".git", ".venv", "outputs"):
            (folder / path.name).symlink_to(path)
    (folder / ".venv").symlink_to(sys.prefix)
    commands = tmp_path / "commands"
    commands.mkdir()
    for name, text in (("srun", SRUN), ("scancel", SCANCEL), ("scontrol", SCONTROL)):
        (commands / name).write_text(text)
        (commands / name).chmod(0o755)
    return folder


def stand_in(project: Path, name: str) -> None:
    """Puts the few lines in the place of a script."""
    (project / name).unlink(missing_ok=True)
    (project / name).write_text(SCRIPT)


def environment(project: Path, **more: str) -> dict[str, str]:
    """Without a hub, GPUs, and the virtual environment that runs the tests."""
    own = {
        "PATH": f"{project.parent / 'commands'}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "CUDA_VISIBLE_DEVICES": "",
        "ACCELERATE_USE_CPU": "true",
        "XDG_CACHE_HOME": str(project / "cache"),
        "OMP_NUM_THREADS": "1",
    }
    kept = {k: v for k, v in plain(project / "home").items() if not k.startswith(("SLURM_", "PET_", "VIRTUAL_ENV"))}
    return {**kept, **own, **more}


class Job:
    """A running job; what it says goes to a file, so that nobody who outlives it can keep the test waiting."""

    def __init__(self, command: list[str], project: Path, env: dict[str, str]):
        self.log = project / f"job-{len(list(project.glob('job-*')))}.txt"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                command, cwd=project, env=env, stdin=subprocess.PIPE, stdout=log, stderr=subprocess.STDOUT
            )

    def until(self, path: Path, pattern: str) -> None:
        """Waits until there is a file of this pattern."""
        deadline = time.monotonic() + 240
        while not list(path.glob(pattern)):
            assert self.process.poll() is None and time.monotonic() < deadline, self.log.read_text()[-3000:]
            time.sleep(0.02)

    def ended(self, status: int | None = 0) -> str:
        """What it said; `status` None: anything but 0."""
        try:
            found = self.process.wait(timeout=240)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
        finally:
            self.process.stdin.close()
        said = self.log.read_text()
        assert found == status if status is not None else found != 0, said[-4000:]
        return said


def slurm_log(project: Path) -> list[str]:
    return (project / "slurm.log").read_text().splitlines()


def noted(project: Path, processes: int) -> list[dict]:
    """What the stand-in's processes noted; their launchers have met, or they would not know each other's number."""
    found = [read(project / f"rank-{rank}.json") for rank in range(processes)]
    assert {each["environment"]["WORLD_SIZE"] for each in found} == {str(processes)}
    return found


def free_port() -> str:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return str(listening.getsockname()[1])


# SLURM


@pytest.mark.parametrize("name", SLURM)
def test_the_shell_takes_them(name):
    subprocess.run(["bash", "-n", str(JOBS / name)], check=True)
    if checker := shutil.which("shellcheck"):
        subprocess.run([checker, "--exclude=SC1091", str(JOBS / name)], check=True)  # .venv is not a file of ours
    options = dict(re.findall(r"^#SBATCH --([\w-]+)=?(\S*)$", (JOBS / name).read_text(), re.M))
    assert {"job-name", "time", "signal", "requeue", "open-mode", "output", "cpus-per-task"} <= set(options)
    assert options["open-mode"] == "append", "or the log of the job's first part would be gone"
    number = re.fullmatch(r"B:(USR1|TERM)@(\d+)", options["signal"])
    patience = re.search(r"TORCH_ELASTIC_SHUTDOWN_TIMEOUT=(\d+)", (JOBS / name).read_text())
    assert patience is None or 30 < int(patience[1]) < int(number[2])


def test_both_jobs_stop_and_go_on_in_the_same_way():
    one, several = ((JOBS / name).read_text() for name in ("slurm_one_node.sh", "slurm_nodes.sh"))
    for part in ("# Not by a signal to srun", "step=$!"):
        first = one[one.index(part) :].split("\n\n")[0]
        assert first in several


def test_one_node_is_stopped_queued_again_and_goes_on(project):
    stand_in(project, "train.py")
    job = {"SLURM_JOB_ID": "4711", "SLURM_GPUS_ON_NODE": "2", "SLURM_CPUS_PER_TASK": "5"}
    command = ["bash", "jobs/slurm_one_node.sh", "train.py", "--wait", "--name", "two words"]
    running = Job(command, project, environment(project, **job))
    for rank in range(2):
        running.until(project, f"waiting-{rank}")
    running.process.send_signal(signal.SIGUSR1)
    running.ended(None)
    assert (project / "checkpoint").exists(), "the script was given time for it"
    assert slurm_log(project)[1:] == ["scancel --signal=TERM 4711", "scontrol requeue 4711"]
    Job(command, project, environment(project, **job)).ended()
    assert slurm_log(project)[4:] == [], "no reason to queue it again"
    for process in noted(project, 2):
        assert process["arguments"] == ["--wait", "--name", "two words", "--resume_from_checkpoint", "auto"]
        assert process["environment"]["OMP_NUM_THREADS"] == "2"
        assert process["environment"]["SRUN_CPUS_PER_TASK"] == "5"


def test_what_fails_by_itself_is_not_queued_again(project):
    job = Job(["bash", "jobs/slurm_one_node.sh", "missing.py"], project, environment(project, SLURM_JOB_ID="1"))
    job.ended(1)
    assert len(slurm_log(project)) == 1
    (project / ".venv").unlink()
    assert ".venv/bin/activate" in Job(["bash", "jobs/slurm_one_node.sh"], project, environment(project)).ended(1)


def test_two_nodes_are_stopped_queued_again_and_go_on(project):
    """Their launchers meet, and a stop reaches both; what a script then resumes is tested in test_launch.py."""
    stand_in(project, "train.py")
    job = {"SLURM_JOB_ID": "1234567", "SLURM_JOB_NUM_NODES": "2", "SLURM_JOB_NODELIST": "node[1-2]"}
    job |= {"NODES": "localhost localhost"}
    command = ["bash", "jobs/slurm_nodes.sh", "train.py", "--wait"]
    running = Job(command, project, environment(project, **job))
    for rank in range(2):
        running.until(project, f"waiting-{rank}")
    running.process.send_signal(signal.SIGUSR1)
    running.ended(None)
    begun = slurm_log(project)
    assert begun[0].startswith("srun --kill-on-bad-exit=0 torchrun --nnodes 2 ")
    assert "--rdzv_endpoint localhost:24567 train.py " in begun[0]
    assert begun[1:] == ["scancel --signal=TERM 1234567", "scontrol requeue 1234567"]
    Job(command, project, environment(project, **job)).ended()
    assert len(slurm_log(project)) == 4
    assert [each["arguments"] for each in noted(project, 2)] == [["--wait", "--resume_from_checkpoint", "auto"]] * 2


TABLE = """
rows = ["# two rows follow", "./record run_a.py --name 'two words'", "# and one more", "./record run_b.py"]
print("a word beside the rows", file=__import__("sys").stderr)
print("\\n".join(rows))
"""


def recorder(project: Path) -> None:
    """A command that notes its process and its arguments, one a line."""
    (project / "record").write_text('#!/bin/bash\nprintf "%s\\n" $$ "$@" >recorded\n')
    (project / "record").chmod(0o755)


def test_a_row_of_a_table(project):
    """The second row of the real table; the signal of SLURM reaches what runs, which is the batch shell itself."""
    recorder(project)
    flags = ["mnli", "--demo", "--launcher", "./record"]
    job = Job(["bash", "jobs/slurm_table.sh", *flags], project, environment(project, SLURM_ARRAY_TASK_ID="2"))
    said = job.ended()
    listed = subprocess.run(
        [sys.executable, "-m", "benchmarks.published", *flags, "--dry_run"],
        cwd=project,
        env=environment(project),
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    row = [line for line in listed if not line.startswith("#")][1]
    assert row in said
    process, *arguments = (project / "recorded").read_text().splitlines()
    assert arguments == shlex.split(row)[1:] and "--resume_from_checkpoint" in arguments
    assert int(process) == job.process.pid


@pytest.mark.parametrize(("number", "arguments"), [("1", ["run_a.py", "--name", "two words"]), ("2", ["run_b.py"])])
def test_comments_are_no_rows(project, number, arguments):
    recorder(project)
    (project / "benchmarks").unlink()
    (project / "benchmarks").mkdir()
    (project / "benchmarks" / "published.py").write_text(TABLE)
    Job(["bash", "jobs/slurm_table.sh", "x"], project, environment(project, SLURM_ARRAY_TASK_ID=number)).ended()
    assert (project / "recorded").read_text().splitlines()[1:] == arguments
    (project / "recorded").unlink()
    missing = Job(["bash", "jobs/slurm_table.sh", "x"], project, environment(project, SLURM_ARRAY_TASK_ID="3"))
    assert "no row 3" in missing.ended(2) and not (project / "recorded").exists()


# Kubernetes, SkyPilot, Hugging Face Jobs


def loaded(name: str) -> dict:
    return yaml.safe_load((JOBS / name).read_text())


def test_the_pytorchjob_agrees_with_itself():
    job = loaded("pytorchjob.yaml")
    assert (job["apiVersion"], job["kind"]) == ("kubeflow.org/v1", "PyTorchJob")
    replicas = job["spec"]["pytorchReplicaSpecs"]
    assert {*replicas} == {"Master", "Worker"} and replicas["Master"]["replicas"] == 1
    for kind in replicas.values():
        pod = kind["template"]["spec"]
        (container,) = pod["containers"]
        assert container["name"] == "pytorch"
        assert container["resources"]["limits"]["nvidia.com/gpu"] == int(job["spec"]["nprocPerNode"])
        assert {m["name"] for m in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
        patience = {each["name"]: each["value"] for each in container["env"]}["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"]
        assert 30 < int(patience) < pod["terminationGracePeriodSeconds"]
    assert f"WORKDIR {container['workingDir']}\n" in (ROOT / "Dockerfile").read_text()


def test_two_pods_meet(project):
    """With what the operator sets (envvar.go): torchrun takes its arguments from PET_*."""
    stand_in(project, "run_qa.py")
    spec, port = loaded("pytorchjob.yaml")["spec"], free_port()
    pods = [kind["template"]["spec"]["containers"][0] for kind in spec["pytorchReplicaSpecs"].values()]
    jobs = []
    for rank, pod in enumerate(pods):
        own = {each["name"]: each["value"] for each in pod["env"]} | {"OMP_NUM_THREADS": "1"}
        own |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2", "RANK": str(rank)}
        own |= {"PET_MASTER_ADDR": "127.0.0.1", "PET_MASTER_PORT": port, "PET_NODE_RANK": str(rank)}
        own |= {"PET_NNODES": str(len(pods)), "PET_NPROC_PER_NODE": "1", "PYTHONUNBUFFERED": "1"}
        command = [f"{sys.prefix}/bin/{pod['command'][0]}", *pod["command"][1:], *pod["args"]]
        jobs.append(Job(command, project, environment(project, **own)))
    for job in jobs:
        job.ended()
    assert [each["arguments"] for each in noted(project, 2)] == [pods[0]["args"][1:]] * 2


def test_the_task_of_skypilot_runs(project):
    stand_in(project, "run_qa.py")
    task = loaded("sky.yaml")
    subprocess.run(["bash", "-n"], input=task["setup"], text=True, check=True)
    assert all(f'"{mount}/' in task["run"] for mount in task["file_mounts"])
    own = {**task["envs"], "FLAGS": "--model xlm-roberta-base --bf16", "SKYPILOT_NUM_GPUS_PER_NODE": "2"}
    own |= {"SKYPILOT_NUM_NODES": "1", "SKYPILOT_NODE_RANK": "0", "SKYPILOT_NODE_IPS": "127.0.0.1"}
    run = task["run"].replace("--master_port 29500", f"--master_port {free_port()}")  # there may be somebody here
    Job(["bash", "-c", run], project, environment(project, **own)).ended()
    expected = ["--model", "xlm-roberta-base", "--bf16", "--output_dir", "/outputs/run_qa"]
    assert [each["arguments"] for each in noted(project, 2)] == [[*expected, "--resume_from_checkpoint", "auto"]] * 2


def hugging_face_job() -> list[str]:
    """The words of the command in README.md."""
    text = (JOBS / "README.md").read_text().replace("\\\n", " ")
    return shlex.split(re.search(r"^hf jobs uv run .*$", text, re.M)[0])


def test_the_client_takes_the_job_of_hugging_face(project):
    command = [f"{sys.prefix}/bin/hf", "jobs", "uv", "run", "--dry-run", *hugging_face_job()[4:]]
    said = Job(command, project, environment(project)).ended()
    assert re.search(r"^ *script +run_qa.py$", said, re.M) and "PYTHONPATH=/scripts" in said
    assert "./common:/scripts/common" in said


# accelerate


@pytest.mark.parametrize("name", ACCELERATE)
def test_accelerate_takes_its_files(name):
    """Its own reader refuses unknown keys; those of a group become flags of the launcher, which it must have."""
    from accelerate.commands.config.config_args import load_config_from_file
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser

    path = str(JOBS / "accelerate" / name)
    config = load_config_from_file(path)
    parser = launch_command_parser()
    known = {action.dest for action in parser._actions}
    assert set(config.fsdp_config) | set(config.dynamo_config) <= known
    address = ["--main_process_ip", "10.0.0.1"] if name == "nodes.yaml" else []
    arguments, _, _ = _validate_launch_command(parser.parse_args(["--config_file", path, *address, "run_qa.py"]))
    launched = (arguments.multi_gpu, arguments.use_fsdp, arguments.num_machines, arguments.num_processes)
    expected = {"cpu": (False, False, 1, 1), "one_gpu": (False, False, 1, 1), "gpus": (True, False, 1, 8)}
    expected |= {"nodes": (True, False, 2, 16), "fsdp": (False, True, 1, 8)}
    assert launched == expected[Path(name).stem]
    assert arguments.mixed_precision == "no" and arguments.use_cpu == (name == "cpu.yaml")
    assert arguments.gpu_ids == ("0" if name == "one_gpu.yaml" else "all")


def launch(name: str, *flags: str) -> list[str]:
    return [f"{sys.prefix}/bin/accelerate", "launch", "--config_file", f"jobs/accelerate/{name}", *flags, "run_qa.py"]


def test_accelerate_on_one_process(project):
    stand_in(project, "run_qa.py")
    Job([*launch("cpu.yaml"), "--use_cpu"], project, environment(project)).ended()
    process = read(project / "rank-0.json")
    assert process["arguments"] == ["--use_cpu"]
    assert "MASTER_ADDR" not in process["environment"], "or the script would take it for a failed launch"


def test_accelerate_on_two_processes(project):
    stand_in(project, "run_qa.py")
    Job([*launch("gpus.yaml", "--num_processes", "2"), "--bf16"], project, environment(project)).ended()
    assert [each["arguments"] for each in noted(project, 2)] == [["--bf16"]] * 2


def test_accelerate_on_two_machines(project):
    stand_in(project, "run_qa.py")
    flags = ["--num_processes", "2", "--main_process_ip", "127.0.0.1", "--main_process_port", free_port()]
    commands = [launch("nodes.yaml", *flags, "--machine_rank", rank) for rank in "01"]
    jobs = [Job([*command, "--bf16"], project, environment(project)) for command in commands]
    for job in jobs:
        job.ended()
    assert [each["environment"]["GROUP_RANK"] for each in noted(project, 2)] == ["0", "1"]


# The commands in their heads


def typed() -> list[list[str]]:
    """Script and flags of every command that the files' heads show, and of those that are started by them."""
    master = loaded("pytorchjob.yaml")["spec"]["pytorchReplicaSpecs"]["Master"]
    commands = [master["template"]["spec"]["containers"][0]["args"]]
    commands += [[each["SCRIPT"], *each["FLAGS"].split()] for each in [loaded("sky.yaml")["envs"]]]
    commands += [hugging_face_job()[hugging_face_job().index("run_qa.py") :]]
    for path in sorted(JOBS.rglob("*.*")):
        text = re.sub(r"\\\n#? *", "", path.read_text())
        commands += [shlex.split(found) for found in re.findall(r"(?:^#.* )(run_\w+\.py(?: .*)?)$", text, re.M)]
        commands += [[s, *shlex.split(f)] for s, f in re.findall(r'--env SCRIPT=(\S+) --env FLAGS="(.*)"', text)]
        once = re.search(r"`(--max_train_samples 8[^`]*)`", text)
        commands += [["run_qa.py", *once[1].split()]] if once else []
    assert len(commands) > 8, "or they are not found any more"
    return commands


@pytest.mark.parametrize("command", typed(), ids=" ".join)
def test_the_scripts_know_their_flags(monkeypatch, command):
    class Understood(Exception):
        pass

    def reached(*_, **__):
        raise Understood

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)  # or --push_to_hub is refused
    monkeypatch.setenv("HF_TOKEN", "hf_of_nobody")
    script, *flags = command
    module = importlib.import_module(Path(script).stem)
    monkeypatch.setattr(module, "start_run", reached)
    with pytest.raises(Understood):
        module.main([*flags, "--use_cpu"])


def test_all_files_are_listed_and_their_commands_exist():
    table = (JOBS / "README.md").read_text()
    for path in [*JOBS.glob("*.sh"), *JOBS.glob("*.yaml")]:
        assert f"| `{path.name}` |" in table
    assert (ROOT / "Makefile").read_text().count("$(VENV)/runtime.stamp:") == 1
    for shown in re.findall(r"jobs/[\w/.]+\.(?:sh|yaml|md)", "".join(p.read_text() for p in JOBS.rglob("*.*"))):
        assert (ROOT / shown).is_file(), shown


# accelerate divides a model over GPUs only: here it takes two processes on the CPU for two of them.
TWO_GPUS = """
import runpy, sys
from accelerate import PartialState
from accelerate.utils import DistributedType

begin = PartialState.__init__

def as_on_gpus(self, *arguments, **settings):
    begin(self, *arguments, **settings)
    if self.distributed_type == DistributedType.MULTI_CPU:
        self.distributed_type = DistributedType.MULTI_GPU

PartialState.__init__ = as_on_gpus
del sys.argv[0]
sys.path.insert(0, ".")
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_a_model_divided_over_two_processes(project):
    (project / "on_gpus.py").write_text(TWO_GPUS)
    sizes = ["--max_train_samples", "32", "--max_eval_samples", "16", "--max_steps", "2", "--output_dir", "out"]
    flags = ["--num_processes", "2", "--fsdp_transformer_layer_cls_to_wrap", "TransformerBlock", "on_gpus.py"]
    Job([*launch("fsdp.yaml", *flags), "--demo", "--use_cpu", *sizes], project, environment(project)).ended()
    from safetensors.torch import load_file

    results, weights = read(project / "out" / "results.json"), load_file(project / "out" / "model.safetensors")
    assert results["environment"]["processes"] == 2
    assert sum(tensor.numel() for tensor in weights.values()) == results["model"]["parameters"]["total"]
