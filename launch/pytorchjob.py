"""A Kubernetes manifest that trains an arm of a run: a PyTorchJob of Kubeflow's training operator (kubeflow.org/v1)."""

from __future__ import annotations

import re
from dataclasses import dataclass

from tracestill.data_pipeline.errors import InputError
from tracestill.trainer.recipe import Recipe, dump_recipe

LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,44}[a-z0-9])?")  # leaves room for what the operator appends, in 63 characters
IMAGE = re.compile(r"[\w.:/@-]+", re.ASCII)
MANIFEST = """\
# Trains arm {arm} of {name} on {nodes} pod(s) with {ranks} rank(s) each. Apply with: kubectl apply -f FILE
# Written by `tracestill kubernetes`; safe to edit.
---
# The recipe, which the pods read.
apiVersion: v1
kind: ConfigMap
metadata:
  name: "{job}"
data:
  recipe.yaml: |
{recipe}
---
# Ranks have no passwords: whoever reaches their ports can join or stop them. Only pods of this job may.
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: "{job}"
spec:
  podSelector:
    matchLabels: {{training.kubeflow.org/job-name: "{job}"}}
  policyTypes: [Ingress]
  ingress:
    - from:
        - podSelector:
            matchLabels: {{training.kubeflow.org/job-name: "{job}"}}
---
apiVersion: kubeflow.org/v1
kind: PyTorchJob
metadata:
  name: "{job}"
spec:
  # The operator tells torchrun in each pod how many ranks to start and where they meet.
  nprocPerNode: "{ranks}"
  runPolicy:
    # Pods that fail, are evicted or preempted start again and go on from the newest checkpoint, this many times.
    backoffLimit: {attempts}
    # Pods that run on after the end of the job are removed.
    cleanPodPolicy: Running
  pytorchReplicaSpecs:
    # The first pod: it makes the data, and the ranks of all pods meet there.
    Master:
      replicas: 1
      restartPolicy: OnFailure
      template:
        spec:
{first}
{others}"""
OTHERS = """\
    # The other pods wait for the data.
    Worker:
      replicas: {count}
      restartPolicy: OnFailure
      template:
        spec:
{pod}"""
POD = """\
# torchrun passes SIGTERM on; ranks save after the step at hand, within the 30 s that torchrun waits.
terminationGracePeriodSeconds: 60
initContainers:
  - name: data
    image: "{image}"
    command: {data}
    volumeMounts:
{mounts}
containers:
  - name: pytorch # the operator looks for this name
    image: "{image}"
    command: [torchrun, -m, tracestill.trainer.train]
    args: [--run-dir, {run_dir}, --arm, "{arm}", --resume, auto]
    # The ranks' environment: nothing here is secret; mount secrets as files.
    env:
      - {{name: PYTHONUNBUFFERED, value: "1"}}
      - {{name: TOKENIZERS_PARALLELISM, value: "false"}}{cpu}
    securityContext: {{allowPrivilegeEscalation: false}}
    resources:
      limits: {{{limits}}}
    volumeMounts:
{mounts}
volumes:
  # A claim that all pods can write to (ReadWriteMany): run, checkpoints and logs.
  - name: runs
    persistentVolumeClaim: {{claimName: "{claim}"}}
  - name: recipe
    configMap: {{name: "{job}"}}
  # NCCL and data workers share memory; the usual 64 MiB are too few.
  - name: shm
    emptyDir: {{medium: Memory}}
"""
MOUNTS = """\
      - {{name: runs, mountPath: {mount}}}
      - {{name: recipe, mountPath: /recipe, readOnly: true}}
      - {{name: shm, mountPath: /dev/shm}}"""


@dataclass(frozen=True)
class Pods:
    """What a manifest asks for."""

    nodes: int
    gpus: int  # in each pod; 0: ranks compute on the CPU
    image: str
    claim: str  # a PersistentVolumeClaim that all pods can write to
    ranks: int | None = None  # in each pod; None: one a GPU
    mount: str = "/runs"  # where pods see the claim
    attempts: int = 20


def manifest(recipe: Recipe, arm: str, pods: Pods) -> str:
    """The YAML. Raises InputError for a name that Kubernetes would refuse."""
    recipe.for_arm(arm)
    ranks = pods.ranks or pods.gpus
    if ranks < 1:
        raise InputError("--gpus: 0 needs --ranks, the ranks in each pod")
    job = re.sub(r"[._]", "-", f"{recipe.name}-{arm}".lower())
    if not LABEL.fullmatch(job):
        raise InputError(f"name: {recipe.name}, arm {arm} make no name for a job in Kubernetes; shorten them ({job!r})")
    if not IMAGE.fullmatch(pods.image):
        raise InputError(f"--image {pods.image}: is no name of an image")
    if not LABEL.fullmatch(pods.claim):
        raise InputError(f"--claim {pods.claim}: is no name of a claim (small letters, digits and '-')")
    if not re.fullmatch(r"(/[\w.-]+)+", pods.mount, re.ASCII):
        raise InputError(f"--mount {pods.mount}: expected an absolute path without spaces")
    run_dir = f"{pods.mount}/{recipe.name}"
    data = f"[tracestill, run, /recipe/recipe.yaml, --run-dir, {run_dir}, --until, plan]"
    plan = f"{run_dir}/arms/{arm}/plan/manifest.json"
    wait = f'[sh, -c, "until [ -e {plan} ]; do sleep 5; done"]'
    common = {
        "image": pods.image,
        "mounts": MOUNTS.format(mount=pods.mount),
        "run_dir": run_dir,
        "arm": arm,
        "job": job,
        "claim": pods.claim,
        "limits": f"nvidia.com/gpu: {pods.gpus}" if pods.gpus else f"cpu: {ranks}",
        "cpu": "".join(f'\n      - {{name: {n}, value: "{v}"}}' for n, v in CPU.items()) if not pods.gpus else "",
    }
    first = POD.format(data=data, **common)
    others = OTHERS.format(count=pods.nodes - 1, pod=indented(POD.format(data=wait, **common), 10))
    return MANIFEST.format(
        name=recipe.name,
        arm=arm,
        nodes=pods.nodes,
        ranks=ranks,
        job=job,
        attempts=pods.attempts,
        recipe=indented(dump_recipe(recipe), 4),
        first=indented(first, 10).rstrip(),
        others=others.rstrip() + "\n" if pods.nodes > 1 else "",
    )


CPU = {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}


def indented(text: str, by: int) -> str:
    return "\n".join(" " * by + line if line else line for line in text.splitlines())
