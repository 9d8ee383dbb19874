"""A Kubernetes manifest that trains an arm of a run: an MPIJob of Kubeflow's MPI operator (kubeflow.org/v2beta1).

The operator gives every pod the job's ssh keys and the launcher a hostfile of the workers. Workers run sshd; the
launcher makes the data, and then starts the ranks on the workers with Open MPI's mpirun. See
``launch/start/mpi_rank.py``.
"""

from __future__ import annotations

from tracestill.launch.schedulers.pods import Pods, head, pod, rank_variables, values_of
from tracestill.trainer.recipe.recipe import Recipe

SSH_CONFIG = """\
Host *
  User root
  IdentityFile /root/.ssh/id_rsa
  IdentitiesOnly yes
  BatchMode yes
  LogLevel ERROR
  # Workers show the job's own key, which nobody else has; see launch.sh.
  UserKnownHostsFile /tmp/known_hosts
  StrictHostKeyChecking yes
"""
LAUNCH = """\
#!/bin/sh
# Starts the ranks on the workers; ends when they have ended.
set -eu
hosts=/etc/mpi/hostfile # the operator's: a line for each worker

# --- who the workers are: every one of them holds the job's key
echo "* $(cut -d ' ' -f 1-2 /root/.ssh/id_rsa.pub)" > /tmp/known_hosts

# --- where the ranks meet: the first worker, where rank 0 runs
MASTER_ADDR=$(head -n 1 "$hosts" | cut -d ' ' -f 1)
MASTER_PORT=29500
# the run's secret, by which ranks know each other's entries there
TRACESTILL_LAUNCH=$(od -An -N16 -tx1 /dev/urandom | tr -d ' \\n')
export MASTER_ADDR MASTER_PORT TRACESTILL_LAUNCH

# --- a worker has a name only once its pod runs; give up after half an hour or so, and let the job count the attempt
trap 'exit 143' TERM # the first process of a container heeds no signal that it does not ask for
tries=360
while read -r host _; do
    until ssh -n -F /recipe/ssh_config -o ConnectTimeout=10 "$host" true; do
        tries=$((tries - 1))
        if [ "$tries" -eq 0 ]; then
            echo "error: $host cannot be reached" >&2
            exit 1
        fi
        echo "waiting for $host" >&2
        sleep 5
    done
done < "$hosts"

# --- one process a rank. Full paths, as a shell that sshd starts may know others. After SIGTERM ranks save what they
# have: mpirun gives them 25 s, and takes up to twice as long itself. sshd gives its sessions a fresh environment: of
# the pods' variables ranks get those that stand after -x, and no others. Nothing that is exported is secret; mount
# secrets as files.
exec "$(command -v mpirun)" --allow-run-as-root -n {count} --hostfile "$hosts" --bind-to none \\
    --mca plm_rsh_args "-F /recipe/ssh_config" --mca odls_base_sigkill_timeout 25 \\
    -x PATH ${{LD_LIBRARY_PATH:+-x LD_LIBRARY_PATH}} -x MASTER_ADDR -x MASTER_PORT -x TRACESTILL_LAUNCH {exports} \\
    "$(command -v tracestill)" train {run_dir} --arm {arm} --resume auto
"""
JOB = """\
apiVersion: kubeflow.org/v2beta1
kind: MPIJob
metadata:
  name: "{job}"
spec:
  # Ranks of each worker, in the hostfile that the operator writes.
  slotsPerWorker: {ranks}
  mpiImplementation: OpenMPI
  sshAuthMountPath: /root/.ssh
  runPolicy:
    # A launcher that fails starts again, and the ranks go on from the newest checkpoint, this many times.
    backoffLimit: {attempts}
    # Workers that run on after the end of the job are removed.
    cleanPodPolicy: Running
  mpiReplicaSpecs:
    # Makes the data, then starts the ranks on the workers. It computes nothing itself.
    Launcher:
      replicas: 1
      restartPolicy: OnFailure
      template:
        spec:
{launcher}
    # sshd, with the job's key as that of the host; the ranks are started through it.
    Worker:
      replicas: {nodes}
      restartPolicy: OnFailure
      template:
        spec:
{worker}
"""
SSHD = (
    *("/usr/sbin/sshd", "-De", "-f", "/dev/null", "-o", "HostKey=/root/.ssh/id_rsa"),
    *("-o", "AuthorizedKeysFile=/root/.ssh/authorized_keys", "-o", "StrictModes=no", "-o", "PidFile=none"),
    *("-o", "PermitRootLogin=prohibit-password", "-o", "PasswordAuthentication=no"),
    *("-o", "KbdInteractiveAuthentication=no"),
)
WORKER = f"""\
    # sshd insists on its folder; the keys are mounted links, whose modes it would not like.
    command: [sh, -c, "mkdir -p /run/sshd && exec {" ".join(SSHD)}"]"""


def manifest(recipe: Recipe, arm: str, pods: Pods) -> str:
    """The YAML. Raises InputError for a name that Kubernetes would refuse."""
    values = values_of(recipe, arm, pods)
    exports = " ".join(f"-x {name}={value}" for name, value in rank_variables(pods).items())
    script = LAUNCH.format(count=pods.nodes * int(values["ranks"]), exports=exports, **values)
    note = "# mpirun passes SIGTERM on, and ranks save after the step at hand.\n"
    start = "    command: [sh, /recipe/launch.sh]"
    launcher = pod(values, "launcher", start, note=note, init=str(values["data"]), computes=False)
    worker = pod(values, "worker", WORKER)
    what = "the recipe, and how the launcher starts the ranks"
    files = {"launch.sh": script, "ssh_config": SSH_CONFIG}
    return head(recipe, what, values, **files) + JOB.format(launcher=launcher, worker=worker, **values)
