"""A Kubernetes manifest that trains an arm of a run: a PyTorchJob of Kubeflow's training operator (kubeflow.org/v1)."""

from __future__ import annotations

from pathlib import Path

from tracestill.launch.schedulers.pods import Pods, head, pod, rank_variables, values_of
from tracestill.trainer.recipe.recipe import Recipe
from tracestill.trainer.recipe.run_directory import RunDirectory

JOB = """\
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
NOTE = "# torchrun passes SIGTERM on; ranks save after the step at hand, within the 30 s that torchrun waits.\n"
COMMAND = """\
    command: [torchrun, -m, tracestill.trainer.train]
    args: [--run-dir, {run_dir}, --arm, "{arm}", --resume, auto]
    # The ranks' environment: nothing here is secret; mount secrets as files.
    env:
{env}"""


def manifest(recipe: Recipe, arm: str, pods: Pods) -> str:
    """The YAML. Raises InputError for a name that Kubernetes would refuse."""
    values = values_of(recipe, arm, pods)
    values["env"] = "\n".join(f'      - {{name: {n}, value: "{v}"}}' for n, v in rank_variables(pods).items())
    plan = RunDirectory(Path(str(values["run_dir"])), recipe).stage(arm, "plan") / "manifest.json"
    wait = f'[sh, -c, "until [ -e {plan} ]; do sleep 5; done"]'
    role = "pytorch # the operator looks for this name"
    first, other = (pod(values, role, COMMAND, note=NOTE, init=init) for init in (str(values["data"]), wait))
    others = OTHERS.format(count=pods.nodes - 1, pod=other)
    return head(recipe, "the recipe", values) + JOB.format(
        first=first.rstrip(), others=others.rstrip() + "\n" if pods.nodes > 1 else "", **values
    )
