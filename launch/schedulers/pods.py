"""What manifests for Kubernetes share, whichever operator runs the job: names, recipe, network, what pods mount."""

from __future__ import annotations

import re
from dataclasses import dataclass

from tracestill.data_pipeline.base import own_modules
from tracestill.data_pipeline.base.errors import InputError
from tracestill.launch.start.rank_environment import ALWAYS
from tracestill.trainer.ranks.cores import THREADS
from tracestill.trainer.recipe.recipe import Recipe, dump_recipe, own_modules_of, refuse_local_checkpoints

LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,44}[a-z0-9])?")  # leaves room for what the operator appends, in 63 characters
IMAGE = re.compile(r"[\w.:/@-]+", re.ASCII)
HEAD = """\
# Trains arm {arm} of {name} on {nodes} pod(s) with {ranks} rank(s) each. Apply with: kubectl apply -f FILE
# Written by `tracestill kubernetes`; safe to edit.
---
# What the pods read: {what}.
apiVersion: v1
kind: ConfigMap
metadata:
  name: "{job}"
data:
{files}
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
"""
MOUNTS = """\
      - {{name: runs, mountPath: {mount}}}
      - {{name: recipe, mountPath: /recipe, readOnly: true}}
      - {{name: shm, mountPath: /dev/shm}}"""
DATA = """\
initContainers:
  - name: data
    image: "{image}"
    command: {data}
    volumeMounts:
{mounts}
"""
POD = """\
{note}terminationGracePeriodSeconds: 60
{init}containers:
  - name: {role}
    image: "{image}"
{command}
    securityContext: {{allowPrivilegeEscalation: false}}
{resources}    volumeMounts:
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
    cpus: int | None = None  # cores of each rank; None: one where ranks compute on the CPU, else no limit


def values_of(recipe: Recipe, arm: str, pods: Pods) -> dict[str, str | int]:
    """What the templates of a manifest name. Raises InputError for a name that Kubernetes would refuse."""
    if not recipe.for_arm(arm).train.trains:
        raise InputError(f"--arm {arm}: its student is not trained (train: none)")
    refuse_local_checkpoints(recipe, "the manifest")
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
    limits = {"nvidia.com/gpu": pods.gpus, "cpu": ranks * (pods.cpus or (0 if pods.gpus else 1))}
    return {
        "name": recipe.name,
        "arm": arm,
        "nodes": pods.nodes,
        "ranks": ranks,
        "job": job,
        "attempts": pods.attempts,
        "image": pods.image,
        "claim": pods.claim,
        "run_dir": run_dir,
        "mounts": MOUNTS.format(mount=pods.mount),
        "data": f"[tracestill, run, /recipe/recipe.yaml, --run-dir, {run_dir}, --until, plan]",
        "limits": ", ".join(f"{name}: {count}" for name, count in limits.items() if count),
    }


def rank_variables(pods: Pods) -> dict[str, str]:
    """The ranks' environment; without GPUs it says that they compute on the CPU, and with how many threads."""
    return {**ALWAYS, **({} if pods.gpus else {THREADS: str(pods.cpus or 1), "DS_ACCELERATOR": "cpu"})}


def pod(
    values: dict[str, str | int], role: str, command: str, *, note: str = "", init: str = "", computes: bool = True
) -> str:
    """What a pod holds, as it stands in a manifest. ``init``: the command that makes or awaits the data first;
    ``computes``: it has the limits of a pod with ranks."""
    own = {**values, "role": role, "command": command.format(**values), "note": note}
    own["init"] = DATA.format(**{**values, "data": init}) if init else ""
    own["resources"] = "    resources:\n      limits: {{{limits}}}\n".format(**values) if computes else ""
    return indented(POD.format(**own), 10)


def head(recipe: Recipe, what: str, values: dict[str, str | int], **files: str) -> str:
    """The manifest's first documents: a ConfigMap with the recipe, the modules beside it that it names and further
    ``files``, and the NetworkPolicy. Raises InputError as ``modules_beside``."""
    texts = {"recipe.yaml": dump_recipe(recipe), **modules_beside(recipe), **files}
    listed = "\n".join(f"  {name}: |\n{indented(text, 4)}" for name, text in texts.items())
    return HEAD.format(what=what, files=listed, **values)


def modules_beside(recipe: Recipe) -> dict[str, str]:
    """Name -> text of the modules in the recipe's folder that it names, and of those that they import from there.

    Raises InputError for a package: a ConfigMap holds no folders.
    """
    found, folder = {}, own_modules.folder()
    for field, module in own_modules_of(recipe).items():
        for name, path in own_modules.files(module).items() if folder is not None else ():
            if folder not in path.parents:
                continue  # on Python's path: the image has to bring it
            if "/" in name:
                raise InputError(f"{field}: '{module}' is a package beside the recipe; install it in the image instead")
            found[name] = path.read_text(encoding="utf-8")
    return found


def indented(text: str, by: int) -> str:
    return "\n".join(" " * by + line if line else line for line in text.splitlines())
