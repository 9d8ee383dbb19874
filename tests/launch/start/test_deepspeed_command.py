import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console
from tiny_export import save_tokenizer

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.tokens.tokenizer import TokenizerConfig
from tracestill.launch.hosts.cluster import Cluster
from tracestill.launch.hosts.hostfile import Host
from tracestill.launch.hosts.start_module import module_command
from tracestill.launch.run.checks import check_ranks_of_hosts
from tracestill.launch.start import deepspeed_command
from tracestill.launch.start.cpu_ranks import bytes_of_rank
from tracestill.launch.start.deepspeed_command import ENTRY_POINT as ENTRY
from tracestill.launch.start.deepspeed_command import TrainingFailed
from tracestill.trainer.recipe.recipe import load_recipe


def test_command_is_a_list_for_this_host():
    words = deepspeed_command.rank_arguments(Path("runs/a b"), "traces", "auto")
    found = deepspeed_command.command(ENTRY, words, ranks=3, port=1234, environment={"HOME": "/x"})
    assert found[:3] == module_command("deepspeed.launcher.runner")
    assert found[found.index("--num_gpus") + 1] == "3"
    assert found[found.index("--master_port") + 1] == "1234"
    module = found.index("--module")
    assert found[module + 1 :] == [
        "tracestill.trainer.train",
        *("--run-dir", "runs/a b", "--arm", "traces", "--resume", "auto"),
    ]


def test_the_launcher_reads_the_command_as_meant():
    runner = pytest.importorskip("deepspeed.launcher.runner")
    words = deepspeed_command.rank_arguments(Path("runs/x"), "a", "must")
    arguments = deepspeed_command.command(ENTRY, words, ranks=2, port=77, environment={})
    found = runner.parse_args(arguments[3:])
    assert (found.num_gpus, found.master_port, found.module) == (2, 77, True)
    assert found.user_script == "tracestill.trainer.train"
    assert found.user_args == ["--run-dir", "runs/x", "--arm", "a", "--resume", "must"]
    assert runner.fetch_hostfile(found.hostfile) is None, "stays on this host, whatever /job/hostfile says"


def test_visible_devices_are_named_or_refused():
    assert deepspeed_command.devices(2, "") == ["--num_gpus", "2"]
    assert deepspeed_command.devices(2, "3, 5,7") == ["--include", "localhost:3,5"]
    with pytest.raises(InputError, match="CUDA_VISIBLE_DEVICES=GPU-1a"):
        deepspeed_command.devices(1, "GPU-1a")


def test_ranks_are_checked_against_the_machine():
    assert deepspeed_command.check_ranks(2, gpus=2, cores=1) is None
    assert deepspeed_command.check_ranks(2, gpus=0, cores=2) is None
    assert "share 2 cores" in str(deepspeed_command.check_ranks(3, gpus=0, cores=2))
    with pytest.raises(InputError, match=r"train\.ranks: 3 ranks need 3 GPUs, this host offers 2"):
        deepspeed_command.check_ranks(3, gpus=2, cores=64)


def changed(recipe, **train):
    return recipe.model_copy(update={"train": recipe.train.model_copy(update=train)})


def test_ranks_follow_from_the_machine_unless_the_recipe_says():
    demo = load_recipe(Path(__file__).parents[3] / "recipes/demo.yaml")  # two packs a step

    def counts(recipe, *gpus):
        return [deepspeed_command.ranks_of(recipe, each, 64).count for each in gpus]

    assert counts(demo, 0, 1, 2, 8) == [2, 1, 2, 2]
    assert deepspeed_command.ranks_of(demo, 0, 1).count == 1
    for gpus in (1, 2, 8):
        ranks = deepspeed_command.ranks_of(demo, gpus, 64).count
        assert deepspeed_command.check_ranks(ranks, gpus, 64) is None
    assert counts(changed(demo, ranks=3), 8) == [3]
    assert counts(changed(demo, sequence_parallel=4), 0, 4, 7, 8, 64) == [8, 4, 4, 8, 8]


def test_ranks_on_a_cpu_have_threads():
    demo = load_recipe(Path(__file__).parents[3] / "recipes/demo.yaml")
    many = demo.model_copy(update={"plan": demo.plan.model_copy(update={"packs_per_step": 8})})
    found = deepspeed_command.ranks_of(many, 0, 16)
    assert (found.count, found.threads, found.about) == (8, 2, ", 2 thread(s) each, of 16 core(s)")
    assert deepspeed_command.ranks_of(many, 0, 16, threads=8).count == 2
    assert deepspeed_command.ranks_of(changed(many, ranks=3), 0, 16).threads == 5
    assert deepspeed_command.ranks_of(many, 8, 16).threads is None


def test_no_more_ranks_than_memory_holds():
    demo = load_recipe(Path(__file__).parents[3] / "recipes/demo.yaml")
    many = demo.model_copy(update={"plan": demo.plan.model_copy(update={"packs_per_step": 8})})
    one = bytes_of_rank(many, 8)
    assert one > 2**30, "a process of its own"
    found = deepspeed_command.ranks_of(many, 0, 16, 5 * one)
    assert (found.count, found.threads) == (4, 4)
    assert found.about.endswith("; memory for 4 of 8 ranks")
    assert deepspeed_command.ranks_of(many, 0, 16, 9 * one).count == 8
    assert deepspeed_command.ranks_of(many, 0, 16, 1.0).count == 1, "one there must be"
    student = many.student.model_copy(update={"config": {"model_type": "gpt2", "n_embd": 64, "n_head": 4}})
    assert bytes_of_rank(many.model_copy(update={"student": student}), 8) > 2**30, "not of the kinds that are foreseen"


def test_memory_of_ranks_whose_tokenizer_is_there_already(tmp_path):
    words = save_tokenizer(tmp_path)
    demo = load_recipe(Path(__file__).parents[3] / "recipes/demo.yaml", ["encode.tokenizer.vocab_size=400"])
    held = TokenizerConfig(path=tmp_path)
    given = demo.model_copy(update={"encode": demo.encode.model_copy(update={"tokenizer": held})})
    row = bytes_of_rank(demo, 2) - bytes_of_rank(given, 2)
    assert row > 0, f"{len(words)} tokens, not 400"


def test_environment_keeps_what_the_user_set():
    cpu = deepspeed_command.child_environment(0, {"CUDA_VISIBLE_DEVICES": "", "A": "b"})
    assert cpu["A"] == "b"
    assert cpu["PYTHONSAFEPATH"] == "1"
    assert cpu["OMP_NUM_THREADS"] == "1"
    assert cpu["DS_ACCELERATOR"] == "cpu"
    assert "CUDA_VISIBLE_DEVICES" not in cpu
    assert deepspeed_command.child_environment(0, {}, threads=5)["OMP_NUM_THREADS"] == "5"
    assert deepspeed_command.child_environment(0, {"OMP_NUM_THREADS": "7"}, threads=5)["OMP_NUM_THREADS"] == "7"
    gpu = deepspeed_command.child_environment(2, {"CUDA_VISIBLE_DEVICES": "1,2"})
    assert gpu["CUDA_VISIBLE_DEVICES"] == "1,2"
    assert "DS_ACCELERATOR" not in gpu
    assert "OMP_NUM_THREADS" not in gpu


def run_python(code: str, log: Path, **options: object) -> None:
    deepspeed_command.run([sys.executable, "-u", "-c", code], log, os.environ, **options)  # type: ignore[arg-type]


def test_output_goes_to_the_log_as_it_comes(tmp_path):
    log = tmp_path / "train" / "console.log"
    seen = []
    run_python(
        "import sys,time; print('one', flush=True); time.sleep(1); print('two', file=sys.stderr)",
        log,
        on_poll=lambda: seen.append(log.read_text()),
    )
    assert log.read_text().splitlines() == ["one", "two"]
    assert "one\n" in seen, "the first line stood in the log before the second came"
    run_python("print('three')", log)
    assert log.read_text().splitlines() == ["one", "two", "three"], "a second attempt is appended"


def test_failure_names_the_log_and_shows_its_end(tmp_path):
    log = tmp_path / "console.log"
    code = "print('[2026-01-01 00:00:00,000] [INFO] [x.py:1:f] noise'); print('the cause'); raise SystemExit(3)"
    with pytest.raises(TrainingFailed) as caught:
        run_python(code, log)
    message = str(caught.value)
    assert "exit code 3" in message
    assert caught.value.of_launcher == 3
    assert str(log) in message
    assert "the cause" in message
    assert "noise" not in message
    assert "noise" in log.read_text()
    with pytest.raises(TrainingFailed) as caught:
        run_python("[print('line', at) for at in range(60)]; raise SystemExit(3)", log)
    first, *shown = str(caught.value).splitlines()
    assert first == f"training ended with exit code 3; the whole output is in {log}, its end:"
    assert shown == [f"  line {at}" for at in range(48, 60)], "a traceback's last lines say what went wrong"


def test_what_ranks_refuse_is_the_users_to_mend(tmp_path):
    say = "import sys; [print('error: plan.capacity: too small', file=sys.stderr) for _ in range(2)]; "
    for more in ("", "[print('a rank ends', at) for at in range(40)]; "):
        with pytest.raises(InputError) as caught:
            run_python(f"{say}{more}sys.exit(2)", tmp_path / "log")
        assert str(caught.value) == "plan.capacity: too small"


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


@pytest.mark.parametrize("stubborn", [False, True])
def test_interrupt_leaves_no_process_behind(tmp_path, monkeypatch, stubborn):
    monkeypatch.setattr(deepspeed_command, "GRACE_SECONDS", 1.0)
    pids = tmp_path / "pids"
    ignore = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); " if stubborn else ""
    inner = f"{ignore}import os,time; open({str(pids)!r}, 'a').write(f'{{os.getpid()}} '); time.sleep(60)"
    outer = f"import subprocess,sys; p=subprocess.Popen([sys.executable,'-c',{inner!r}]); {inner}"

    def interrupt() -> None:
        if pids.exists() and len(pids.read_text().split()) == 2:
            raise KeyboardInterrupt

    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        run_python(outer, tmp_path / "log", on_poll=interrupt)
    assert time.monotonic() - started < 30
    time.sleep(0.1)
    assert not any(alive(int(pid)) for pid in pids.read_text().split())


def test_terminating_the_command_line_ends_the_ranks(tmp_path):
    """SIGTERM to ``tracestill`` unwinds as an interrupt does."""
    pid = tmp_path / "pid"
    inner = f"import os,time; open({str(pid)!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    code = (
        "import os, signal, sys; from pathlib import Path; from tracestill.launch import cli\n"
        "from tracestill.launch.start import deepspeed_command\n"
        "signal.signal(signal.SIGTERM, cli.terminate)\n"
        f"deepspeed_command.run([sys.executable, '-c', {inner!r}], Path({str(tmp_path / 'log')!r}), os.environ)"
    )
    process = subprocess.Popen([sys.executable, "-c", code])
    while not (pid.exists() and pid.read_text()):
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=30) == 143
    assert not alive(int(pid.read_text()))


def test_slots_of_hosts_make_up_groups_that_share_rows(capsys):
    demo = load_recipe(Path(__file__).parents[3] / "recipes/demo.yaml")  # two packs a step
    shared = demo.model_copy(update={"train": demo.train.model_copy(update={"sequence_parallel": 2, "ranks": "auto"})})
    hosts = [Host("a", (0, 1)), Host("b", (0, 1)), Host("c", (0,))]
    console = Console(width=200)
    check_ranks_of_hosts(shared, ["traces"], Cluster(tuple(hosts[:2])), console)
    assert "idle" not in capsys.readouterr().out, "two groups for two packs"
    with pytest.raises(InputError, match=r"train\.sequence_parallel: the hostfile's 5 slots do not form groups of 2"):
        check_ranks_of_hosts(shared, ["traces"], Cluster(tuple(hosts)), console)
