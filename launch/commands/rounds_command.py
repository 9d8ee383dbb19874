"""``tracestill rounds``: students teach the next ones, round after round."""

from __future__ import annotations

from tracestill.launch.commands.options import Again, Changes, Hosts, Place


def rounds(place: Place, *, changes: Changes, hosts: Hosts, again: Again) -> None:
    """Run a recipe with a block [bold]rounds[/]: sample, select, train, evaluate; again with the student as teacher.

    Each round is a run of its own, RUN/rounds/0 and so on. Rounds end early where ways of solving vanish or accuracy
    falls; the best one is named. Interrupt it when you like: the same command goes on where it stopped.

    Example: [cyan]tracestill rounds recipes/demo_rounds.yaml --set rounds.count=5[/]
    """
    from tracestill.data_pipeline.base.errors import InputError
    from tracestill.launch.commands.execution import locked, may_replace, open_run
    from tracestill.trainer.ranks.console import Terminal
    from tracestill.trainer.recipe.run_directory import RunDirectory

    cluster = hosts.cluster(place.recipe, elastic=again.elastic)
    asked, console = open_run(place.recipe, place.run_dir, changes.settings), Terminal(stderr=True)
    if asked.recipe.rounds is None:
        raise InputError(
            f"{place.recipe}: has no block `rounds`, such as `rounds: {{count: 1}}`; `tracestill run` trains once"
        )
    replace = may_replace(asked, changes)
    from tracestill.launch.report.report import write_report
    from tracestill.launch.rounds.run_rounds import Rounds
    from tracestill.launch.rounds.show import show
    from tracestill.launch.run.stage_spec import How
    from tracestill.launch.run.stages import plan_works

    todo = Rounds(asked.root, asked.recipe, console, How(cluster=cluster, max_restarts=again.max_restarts))
    todo.check()
    with locked(asked.root, console):
        RunDirectory.create(asked.root, asked.recipe, replace=replace)
        result = todo.run()
        write_report(asked, plan_works(asked))
        show(asked.root, result, console)
