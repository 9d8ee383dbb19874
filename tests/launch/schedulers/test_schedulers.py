"""What `tracestill slurm` and `tracestill kubernetes` write: checked, and run by a pretended Slurm."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import jsonschema
import psutil
import pytest
import yaml
from fake_run import mini_recipe

from tracestill.data_pipeline.base.errors import InputError
from tracestill.launch.schedulers import mpijob, pytorchjob
from tracestill.launch.schedulers.pods import Pods
from tracestill.launch.schedulers.sbatch import Job, batch_script, slurm_time
from tracestill.trainer.recipe.recipe import Recipe

SCHEMAS = json.loads((Path(__file__).parent / "kubernetes_schemas.json").read_text())
SCHEMAS["MPIJob"] = json.loads((Path(__file__).parent / "mpijob_schema.json").read_text())
for replica, own in SCHEMAS["MPIJob"]["properties"]["spec"]["properties"]["mpiReplicaSpecs"]["properties"].items():
    other = {"Launcher": "Master"}.get(replica, replica)
    of_pytorch = SCHEMAS["PyTorchJob"]["properties"]["spec"]["properties"]["pytorchReplicaSpecs"]["properties"]
    own["properties"]["template"] = of_pytorch[other]["properties"]["template"]
JOB = Job(4, 8, "24h", None, "ib0", ("--partition=a100", "--exclusive"))


def script(tmp_path, job=JOB):
    return batch_script(mini_recipe(), tmp_path / "mini.yaml", tmp_path / "runs/mini", job, tmp_path / "mini.sbatch")


@pytest.mark.parametrize("job", [JOB, Job(1, 0, "1-00:00:00", 2), Job(2, 0, "2h", 2, cpus=6)])
@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="NO SHELLCHECK HERE: apt-get install shellcheck")
def test_shellcheck_accepts_the_script(tmp_path, job):
    (tmp_path / "job").write_text(script(tmp_path, job))
    found = subprocess.run(
        ["shellcheck", "--severity=style", tmp_path / "job"], capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stdout


def test_what_is_asked_of_slurm(tmp_path):
    asked = re.findall(r"^#SBATCH (\S+)$", script(tmp_path), re.MULTILINE)
    assert asked == [
        *("--job-name=mini", "--nodes=4", "--ntasks-per-node=8", "--gpus-per-node=8", "--time=1-00:00:00"),
        *("--requeue", "--signal=TERM@300", "--output=mini-%j.log", "--open-mode=append"),
        *("--partition=a100", "--exclusive"),
    ]
    fewer = script(tmp_path, Job(2, 8, "24h", ranks=3, cpus=5))
    asked = re.findall(r"^#SBATCH (--(?:nodes|ntasks|gpus|cpus)\S+)$", fewer, re.MULTILINE)
    assert asked == ["--nodes=2", "--ntasks-per-node=3", "--cpus-per-task=5", "--gpus-per-node=8"]
    assert "# Trains mini on 2 node(s) with 3 rank(s) each." in fewer
    assert "$((cores < 3 ? 1 : cores / 3))" in fewer
    assert "DS_ACCELERATOR" not in fewer
    on_cpus = script(tmp_path, Job(1, 0, "90m", 2))
    assert "--ntasks-per-node=2\n" in on_cpus
    assert "gpus-per-node" not in on_cpus
    assert "DS_ACCELERATOR=cpu" in on_cpus


@pytest.mark.parametrize(
    ("text", "expected"),
    [("24h", "1-00:00:00"), ("90m", "0-01:30:00"), ("2-03:04:05",) * 2, ("36h", "1-12:00:00")],
)
def test_times(text, expected):
    assert slurm_time(text, 300) == expected


@pytest.mark.parametrize(
    ("job", "said"),
    [
        (Job(1, 8, "5m"), "leaves too little time"),
        (Job(1, 8, "soon"), "--time soon: expected a duration"),
        (Job(1, 0, "24h"), "--gpus: 0 needs --ranks"),
        (Job(1, 8, "24h", options=("--wrap=$(id)",)), "expected an option of sbatch"),
        (Job(1, 8, "24h", options=("--x=1\n#SBATCH --y",)), "expected an option of sbatch"),
        (Job(1, 8, "24h", interface="a b"), "is no name of a network interface"),
    ],
)
def test_what_no_script_is_written_for(tmp_path, job, said):
    with pytest.raises(InputError, match=re.escape(said)):
        script(tmp_path, job)
    with pytest.raises(InputError, match="holds a character"):
        batch_script(mini_recipe(), Path("a b.yaml"), tmp_path, JOB, tmp_path / "x")


# A Slurm of one node: srun runs its command, which only notes what it was told and ends as the test wants, once for
# each of the exit codes that the ranks are to end with; the highest comes through.
SRUN = """#!/bin/bash
while [[ "$1" == --* ]]; do
    [[ "$1" == --cpus-per-task=* ]] && export CORES="${1#*=}"
    shift
done
highest=0
for TRAIN in ${TRAIN:-0}; do
    export TRAIN
    code=0
    "$@" || code=$?
    highest=$((code > highest ? code : highest))
done
exit "$highest"
"""
SCONTROL = '#!/bin/bash\necho "scontrol $*" >> "$NOTES"\n[ "$1" = show ] && echo node-1 || true\n'
PYTHON = """#!/bin/bash
echo "$* at $MASTER_ADDR:$MASTER_PORT" >> "$NOTES"
echo "$CORES of $SRUN_CPUS_PER_TASK, threads ${OMP_NUM_THREADS:-any}" >> "$NOTES.cores"
case "$*" in
  *tracestill.trainer.train*--arm\\ traces*)
    [ -n "${STOPS:-}" ] && mkdir -p "$STOPS" && touch "$STOPS/stopped.json"
    exit "${TRAIN:-0}" ;;
  *--until\\ plan*) exit "${DATA:-0}" ;;
esac
"""


def play(tmp_path, job=JOB, **environment):
    """Run the script under the pretended Slurm: exit code, and what was noted."""
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL), ("python", PYTHON)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    text = script(tmp_path, job).replace(f"python={sys.executable}", f"python={tmp_path / 'python'}")
    assert str(tmp_path / "python") in text
    notes = tmp_path / "notes"
    notes.write_text("")
    slurm = {"SLURM_JOB_ID": "41", "SLURM_JOB_NODELIST": "node-[1-4]", "NOTES": str(notes)}
    slurm |= {"SLURM_JOB_CPUS_PER_NODE": "72(x3),64", **environment}
    path = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    found = subprocess.run(["bash", "-c", text], env={**path, **slurm}, capture_output=True, text=True, check=False)
    return found.returncode, notes.read_text()


def test_a_job_that_finishes(tmp_path):
    code, notes = play(tmp_path)
    assert code == 0
    run = tmp_path / "runs/mini"
    at = "at node-1:20041"
    assert notes.splitlines() == [
        "scontrol show hostnames node-[1-4]",
        f"-m tracestill.launch.cli run {tmp_path / 'mini.yaml'} --run-dir {run} --until plan {at}",
        f"-m tracestill.trainer.train --run-dir {run} --arm traces --resume auto {at}",
        f"-m tracestill.trainer.train --run-dir {run} --arm answers_only --resume auto {at}",
        f"-m tracestill.launch.cli run {run} {at}",
    ]


CORES = (  # the job, what Slurm says, cores and threads of a rank, cores of a task alone
    (JOB, {}, "8 of 8, threads any", 64),
    (JOB, {"SLURM_JOB_CPUS_PER_NODE": "8(x4)"}, "1 of 1, threads any", 8),
    (JOB, {"SLURM_CPUS_PER_TASK": "6"}, "6 of 6, threads any", 64),
    (Job(4, 0, "24h", 4, cpus=12), {"SLURM_CPUS_PER_TASK": "12"}, "12 of 12, threads 12", 64),
    (Job(4, 0, "24h", 4), {}, "16 of 16, threads 16", 64),
    (Job(4, 0, "24h", 4), {"OMP_NUM_THREADS": "2"}, "16 of 16, threads 2", 64),
    (Job(4, 0, "24h", 128), {}, "1 of 1, threads 1", 64),
)


@pytest.mark.parametrize(("job", "environment", "rank", "alone"), CORES)
def test_srun_is_told_the_cores_of_a_task(tmp_path, job, environment, rank, alone):
    """Since Slurm 22.05 it does not take them over from the job."""
    code, _ = play(tmp_path, job, **environment)
    assert code == 0
    data, *trainings, evaluation = (tmp_path / "notes.cores").read_text().splitlines()
    assert trainings == [rank, rank]
    own = rank.split(",")[0].split()[-1]
    assert data == evaluation == f"{alone} of {own}, threads {environment.get('OMP_NUM_THREADS', 'any')}"


def test_cores_are_asked_of_slurm(tmp_path):
    assert "\n#SBATCH --cpus-per-task=6\n" in script(tmp_path, Job(2, 8, "2h", cpus=6))
    assert "cpus-per-task=6" not in script(tmp_path)


@pytest.mark.parametrize(
    "environment",
    [
        *({"TRAIN": codes} for codes in ("3", "143", "3 143")),
        *({"TRAIN": codes, "STOPS": "yes"} for codes in ("143", "134 3")),
        {"DATA": "143"},
    ],
)
def test_a_job_that_was_stopped_goes_back_into_the_queue(tmp_path, environment):
    if "STOPS" in environment:
        environment = {**environment, "STOPS": str(tmp_path / "runs/mini/arms/traces/train")}
    code, notes = play(tmp_path, **environment)
    assert code == 0
    assert notes.splitlines()[-1] == "scontrol requeue 41"


@pytest.mark.parametrize(
    "environment",
    [
        *({"TRAIN": codes} for codes in ("1", "2", "127", "137")),
        # one fails, and Slurm sends SIGTERM to the others: while they wait for it, while they are being loaded
        *({"TRAIN": codes} for codes in ("2 3", "1 143", "4 3 143", "137 143")),
        *({"DATA": "2"}, {"SLURM_RESTART_COUNT": "20", "TRAIN": "3"}),
    ],
)
def test_a_job_that_fails_ends(tmp_path, environment):
    code, notes = play(tmp_path, **environment)
    first = environment.get("TRAIN", environment.get("DATA")).split()[0]
    assert code == (1 if "SLURM_RESTART_COUNT" in environment else int(first))
    assert "requeue" not in notes
    assert "answers_only" not in notes


def documents(make=pytorchjob.manifest, **changes):
    pods = Pods(**{"nodes": 4, "gpus": 8, "image": "example.org/team/tracestill:1", "claim": "runs", **changes})
    return list(yaml.safe_load_all(make(mini_recipe(), "traces", pods)))


@pytest.mark.parametrize("changes", [{}, {"nodes": 1}, {"gpus": 0, "ranks": 2}])
def test_a_manifest_is_what_its_schemas_ask_for(changes):
    found = documents(**changes)
    assert [document["kind"] for document in found] == ["ConfigMap", "NetworkPolicy", "PyTorchJob"]
    for document in found:
        jsonschema.validate(document, SCHEMAS[document["kind"]])
    config, policy, job = found
    assert Recipe.model_validate(yaml.safe_load(config["data"]["recipe.yaml"])) == mini_recipe()
    replicas = job["spec"]["pytorchReplicaSpecs"]
    assert sum(replica["replicas"] for replica in replicas.values()) == changes.get("nodes", 4)
    assert policy["spec"]["podSelector"]["matchLabels"] == {"training.kubeflow.org/job-name": job["metadata"]["name"]}
    for replica in replicas.values():
        (container,) = replica["template"]["spec"]["containers"]
        assert container["name"] == "pytorch"
        assert container["args"] == ["--run-dir", "/runs/mini", "--arm", "traces", "--resume", "auto"]
        assert container["volumeMounts"][0] == {"name": "runs", "mountPath": "/runs"}
        assert all(isinstance(variable["value"], str) for variable in container["env"])
        mounted = {mount["name"] for mount in container["volumeMounts"]}
        assert mounted == {volume["name"] for volume in replica["template"]["spec"]["volumes"]}
    limits = replicas["Master"]["template"]["spec"]["containers"][0]["resources"]["limits"]
    assert limits == ({"cpu": 2} if changes.get("gpus") == 0 else {"nvidia.com/gpu": 8})


@pytest.mark.parametrize(
    ("changes", "limits", "threads"),
    [
        ({"gpus": 0, "ranks": 2}, {"cpu": 2}, "1"),
        ({"gpus": 0, "ranks": 2, "cpus": 6}, {"cpu": 12}, "6"),
        ({"cpus": 6}, {"nvidia.com/gpu": 8, "cpu": 48}, None),
        ({}, {"nvidia.com/gpu": 8}, None),
    ],
)
def test_pods_have_the_cores_that_their_ranks_use(changes, limits, threads):
    *_, job = documents(**changes)
    (container,) = job["spec"]["pytorchReplicaSpecs"]["Master"]["template"]["spec"]["containers"]
    assert container["resources"]["limits"] == limits
    assert {v["name"]: v["value"] for v in container["env"]}.get("OMP_NUM_THREADS") == threads
    config, *_, job = documents(mpijob.manifest, **changes)
    (worker,) = job["spec"]["mpiReplicaSpecs"]["Worker"]["template"]["spec"]["containers"]
    assert worker["resources"]["limits"] == limits
    assert ("-x OMP_NUM_THREADS=" in config["data"]["launch.sh"]) == (threads is not None)
    assert f"-x OMP_NUM_THREADS={threads} " in config["data"]["launch.sh"] or threads is None


@pytest.mark.parametrize("changes", [{}, {"nodes": 1}, {"gpus": 0, "ranks": 2}])
def test_an_mpi_job_is_what_its_schemas_ask_for(changes):
    found = documents(mpijob.manifest, **changes)
    assert [document["kind"] for document in found] == ["ConfigMap", "NetworkPolicy", "MPIJob"]
    for document in found:
        jsonschema.validate(document, SCHEMAS[document["kind"]])
    config, policy, job = found
    assert Recipe.model_validate(yaml.safe_load(config["data"]["recipe.yaml"])) == mini_recipe()
    assert policy["spec"]["podSelector"]["matchLabels"] == {"training.kubeflow.org/job-name": job["metadata"]["name"]}
    launcher, worker = (job["spec"]["mpiReplicaSpecs"][name] for name in ("Launcher", "Worker"))
    nodes, ranks = changes.get("nodes", 4), changes.get("ranks", 8)
    assert (worker["replicas"], job["spec"]["slotsPerWorker"]) == (nodes, ranks)
    assert f" -n {nodes * ranks} --hostfile " in config["data"]["launch.sh"]
    (data,) = launcher["template"]["spec"]["initContainers"]
    assert data["command"][-2:] == ["--until", "plan"]
    assert "initContainers" not in worker["template"]["spec"]
    for replica in (launcher, worker):
        (container,) = replica["template"]["spec"]["containers"]
        mounted = {mount["name"] for mount in container["volumeMounts"]}
        assert mounted == {volume["name"] for volume in replica["template"]["spec"]["volumes"]}
    limits = worker["template"]["spec"]["containers"][0]["resources"]["limits"]
    assert limits == ({"cpu": 2} if changes.get("gpus") == 0 else {"nvidia.com/gpu": 8})
    assert "resources" not in launcher["template"]["spec"]["containers"][0], "GPUs are for the workers"
    assert ("DS_ACCELERATOR=cpu" in config["data"]["launch.sh"]) == (changes.get("gpus") == 0)


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="NO SHELLCHECK HERE: apt-get install shellcheck")
def test_shellcheck_accepts_what_the_launcher_runs(tmp_path):
    (tmp_path / "launch.sh").write_text(documents(mpijob.manifest)[0]["data"]["launch.sh"])
    command = ["shellcheck", "--severity=style", tmp_path / "launch.sh"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout


@pytest.mark.parametrize("ends", ["by itself", "on request"])
def test_the_launcher_of_an_mpi_job_does_not_wait_for_workers_for_ever(tmp_path, ends):
    """As the first process of a container, which SIGTERM does not end unless it asks for it."""
    text = documents(mpijob.manifest)[0]["data"]["launch.sh"]
    places = {"/etc/mpi/": f"{tmp_path}/", "/root/.ssh/": f"{tmp_path}/", "/tmp/known_hosts": f"{tmp_path}/known"}
    for place, here in {**places, "sleep 5": "sleep 0.1", **({"=360": "=3"} if ends == "by itself" else {})}.items():
        assert place in text
        text = text.replace(place, here)
    (tmp_path / "hostfile").write_text("w-0 slots=8\nw-1 slots=8\n")
    (tmp_path / "id_rsa.pub").write_text("ecdsa key\n")
    (tmp_path / "ssh").write_text("#!/bin/sh\nexit 255\n")
    (tmp_path / "ssh").chmod(0o755)
    path = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    unshared = ["unshare", "--pid", "--fork", "--kill-child"] if os.geteuid() == 0 and ends == "on request" else []
    process = subprocess.Popen([*unshared, "sh", "-c", text], env=path, stderr=subprocess.PIPE, text=True)
    try:
        if ends == "on request":
            assert process.stderr.readline() == "waiting for w-0\n"
            waits = psutil.Process(process.pid)
            (waits.children()[0] if unshared else waits).terminate()
        _, err = process.communicate(timeout=20)
    finally:
        process.kill()
    assert process.returncode == (1 if ends == "by itself" else 143), err
    if ends == "by itself":
        assert err == "waiting for w-0\n" * 2 + "error: w-0 cannot be reached\n"


def test_names_that_yaml_would_take_for_something_else_stay_names():
    recipe = mini_recipe(name="2024-01", arms={"02": {}, "no": {}})
    for arm in ("02", "no"):
        text = pytorchjob.manifest(recipe, arm, Pods(nodes=2, gpus=8, image="1.5", claim="7"))
        for document in (found := list(yaml.safe_load_all(text))):
            jsonschema.validate(document, SCHEMAS[document["kind"]])
            assert document["metadata"]["name"] == f"2024-01-{arm}"
        for replica in found[2]["spec"]["pytorchReplicaSpecs"].values():
            assert replica["template"]["spec"]["containers"][0]["args"][2:4] == ["--arm", arm]


@pytest.mark.parametrize(
    ("make", "replicas", "first"),
    [(pytorchjob.manifest, "pytorchReplicaSpecs", "Master"), (mpijob.manifest, "mpiReplicaSpecs", "Launcher")],
)
def test_the_schemas_can_refuse(make, replicas, first):
    job = documents(make)[2]
    job["spec"][replicas][first]["template"]["spec"]["containers"][0]["comand"] = ["x"]
    with pytest.raises(jsonschema.ValidationError, match="comand"):
        jsonschema.validate(job, SCHEMAS[job["kind"]])


def test_a_run_directory_of_each_nodes_own_is_refused(tmp_path):
    recipe = mini_recipe(train={"steps": 4, "local_checkpoints": True})
    with pytest.raises(InputError, match=r"train\.local_checkpoints: the batch script needs"):
        batch_script(recipe, tmp_path / "r.yaml", tmp_path, JOB, tmp_path / "x")
    for make in (pytorchjob.manifest, mpijob.manifest):
        with pytest.raises(InputError, match=r"train\.local_checkpoints: the manifest needs"):
            make(recipe, "traces", Pods(2, 8, "i:1", "c"))


def test_an_mpi_job_has_one_launcher():
    job = documents(mpijob.manifest)[2]
    job["spec"]["mpiReplicaSpecs"]["Launcher"]["replicas"] = 2
    with pytest.raises(jsonschema.ValidationError, match="1 was expected"):
        jsonschema.validate(job, SCHEMAS["MPIJob"])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"image": "a b"}, "is no name of an image"),
        ({"claim": "Runs_1"}, "is no name of a claim"),
        ({"gpus": 0}, "needs --ranks"),
    ],
)
def test_what_no_manifest_is_written_for(changes, said):
    with pytest.raises(InputError, match=said):
        documents(**changes)


def test_the_commands_write_a_file_once(tmp_path, monkeypatch):
    from typer.testing import CliRunner

    from tracestill.launch import cli

    monkeypatch.chdir(tmp_path)
    Path("mini.yaml").write_text(yaml.safe_dump(mini_recipe().model_dump(mode="json")))
    slurm = ["slurm", "mini.yaml", "--nodes", "4", "--gpus", "8", "--time", "24h"]
    kubernetes = ["kubernetes", "mini.yaml", "--nodes", "2", "--gpus", "8", "--image", "i:1", "--claim", "c"]
    mpi = [*kubernetes, "--kind", "mpijob", "--output", "mpi.yaml"]
    for command, file in ((slurm, "mini.sbatch"), (kubernetes, "mini-traces.yaml"), (mpi, "mpi.yaml")):
        assert CliRunner().invoke(cli.app, command).exit_code == 0
        assert Path(file).exists()
        again = CliRunner().invoke(cli.app, command)
        assert again.exit_code == 2
        assert f"{file}: File exists" in again.stderr
