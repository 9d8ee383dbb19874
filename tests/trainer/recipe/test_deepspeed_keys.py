"""The ``deepspeed`` block of a recipe: what DeepSpeed would pass over, and what the trainer owns."""

import re

import pytest

from tracestill.data_pipeline.base.errors import InputError
from tracestill.trainer.recipe.deepspeed_keys import FOLDER, OTHERS, OWNED, PATHS, REMOVED, VERSION, check, placed
from tracestill.trainer.recipe.settings import TrainConfig


class Watched(dict):
    """A config that notes which keys are looked up."""

    def __init__(self, **values):
        super().__init__(**values)
        self.asked = set()

    def get(self, key, default=None):
        self.asked.add(key)
        return super().get(key, default)

    def __contains__(self, key):
        self.asked.add(key)
        return super().__contains__(key)

    def keys(self):
        return self if self.asked else super().keys()


def test_the_keys_are_those_that_deepspeed_reads():
    from tracestill.trainer.engine import engine

    config = Watched(train_micro_batch_size_per_gpu=1, gradient_accumulation_steps=1, zero_optimization={"stage": 2})
    engine.deepspeed.DeepSpeedConfig(config)
    of_initialize = {"sequence_parallel_size", "data_parallel_size"}  # read there, or once the ranks have met
    top = {key for key in [*OWNED, *REMOVED] if "." not in key} - of_initialize
    assert {key for key in config.asked if isinstance(key, str)} == {*OTHERS, *top}


def test_the_removed_keys_are_those_that_deepspeed_refuses():
    from deepspeed.runtime import config

    from tracestill.trainer.engine import engine

    assert engine.deepspeed.__version__ == VERSION
    removed = {*config._REMOVED_TOP_LEVEL_CONFIG_KEYS} | {
        f"zero_optimization.{key}" for key in config._REMOVED_ZERO_CONFIG_KEYS
    }
    assert set(REMOVED) == removed
    for key in REMOVED:
        with pytest.raises(config.DeepSpeedConfigError):
            engine.deepspeed.DeepSpeedConfig({"train_batch_size": 1, **under(key, {})})


@pytest.mark.parametrize("key", sorted(REMOVED))
def test_a_removed_key_is_refused_with_what_to_do(key):
    with pytest.raises(InputError, match=rf"^deepspeed\.{key}: DeepSpeed has removed it \({VERSION} refuses it\); \w+"):
        check(under(key, {}))


def under(key, value):
    for part in reversed(key.split(".")):
        value = {part: value}
    return value


WRITTEN = r"output_file|output_path|job_name|nvme_path|.*_dir|(metric|model_info|.*cluster|checkpoint)_path|path"


def test_no_other_key_of_deepspeed_names_what_it_writes():
    """Of the blocks that are typed, by the names of their fields; the untyped ones, by the parts of what they read."""
    from deepspeed.comm.config import CommsLoggerConfig
    from deepspeed.inference.config import WeightQuantConfig
    from deepspeed.profiling.config import DeepSpeedFlopsProfilerConfig
    from deepspeed.runtime.activation_checkpointing.config import DeepSpeedActivationCheckpointingConfig
    from deepspeed.runtime.swap_tensor import aio_config
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig
    from deepspeed.utils.config import DeepSpeedThroughputTimerConfig

    fields = {
        "comms_logger": CommsLoggerConfig.model_fields,
        "weight_quantization": WeightQuantConfig.model_fields,
        "zero_optimization": DeepSpeedZeroConfig.model_fields,
        "timers": DeepSpeedThroughputTimerConfig.model_fields,
        "activation_checkpointing": vars(DeepSpeedActivationCheckpointingConfig({})),
        "flops_profiler": vars(DeepSpeedFlopsProfilerConfig({})),
        "aio": aio_config.get_aio_config({}),
    }
    assert fields.keys() == {key for key, held in OTHERS.items() if held == "a mapping"}
    found = {f"{block}.{name}" for block, names in fields.items() for name in names if re.fullmatch(WRITTEN, name)}
    assert found == set(PATHS)


@pytest.mark.parametrize(
    "path",
    ["/etc/passwd", "../out.txt", "a/../../out.txt", "~/out.txt", "C:/out.txt", ".", "a\0b", 3, ["a"]],
)
@pytest.mark.parametrize("key", PATHS)
def test_a_path_that_leads_out_of_the_run_is_refused(key, path):
    with pytest.raises(InputError, match=rf"^deepspeed\.{key}: (leads out of the run directory|expected the name of)"):
        check(under(key, path))


@pytest.mark.parametrize("key", PATHS)
def test_a_path_lies_in_a_folder_of_the_training(key, tmp_path):
    raw = under(key, "sub/flops.txt")
    check(raw)
    assert placed(raw, tmp_path) == under(key, str(tmp_path / FOLDER / "sub/flops.txt"))
    assert raw == under(key, "sub/flops.txt"), "the recipe stays as it is"
    assert placed({}, tmp_path) == {}
    (tmp_path / "out").mkdir()
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / FOLDER).symlink_to(tmp_path / "out")
    with pytest.raises(InputError, match="by a link"):
        placed(raw, tmp_path / "train")


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"sequence_parallel_size": 2}, r"set train\.sequence_parallel"),
        ({"gradient_cliping": 1}, "knows no such key; did you mean 'gradient_clipping'"),
        ({"wall_clock_brakedown": True}, "did you mean 'wall_clock_breakdown'"),
        ({"train_batch_size": 8}, "plan.packs_per_step"),
        ({"zero_optimization": {"stage": 3}}, r"deepspeed\.zero_optimization\.stage: set train\.zero"),
        ({"zero_optimization": 3}, "expected a mapping"),
        ({"flops_profiler": 3}, "flops_profiler: expected a mapping, got 3"),
        ({"wall_clock_breakdown": "yes"}, "expected true or false, got 'yes'"),
        ({"steps_per_print": True}, "expected a whole number"),
        ({"log_level": "loud"}, "expected one of debug, info"),
        ({"autotuning": {"metric_path": "/etc/x"}}, "`tracestill bench` finds the fastest setting"),
        ({"csv_monitor": {"output_path": "/etc"}}, "train/log.jsonl"),
        ({"tensorboard": {"job_name": "../.."}}, "set train.monitor.tensorboard"),
        ({"zero_optimization": {"cpu_offload_param": True}}, r"set train\.offload\.parameters: cpu"),
        ({"torch_autocast": {"lower_precision_safe_modules": ["their.Module"]}}, "set train.precision"),
        ({2: 3}, r"deepspeed\.2: DeepSpeed knows no such key"),
    ],
)
def test_a_key_is_refused_by_name(raw, message):
    with pytest.raises(InputError, match=message):
        check(raw)


def test_other_keys_pass():
    check({"wall_clock_breakdown": True, "zero_optimization": {"overlap_comm": True}})
    check({"flops_profiler": {"enabled": True, "output_file": "flops.txt"}, "steps_per_print": 10, "log_level": "info"})


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (
            {"zero_optimization": {"overlap_com": True}},
            r"\.zero_optimization\.overlap_com: DeepSpeed knows no such key; did you mean 'overlap_comm'",
        ),
        (
            {"zero_optimization": {"stage3_max_live_parameter": 1}},
            r"\.zero_optimization\.stage3_max_live_parameter: .* did you mean 'stage3_max_live_parameters'",
        ),
        (
            {"zero_optimization": {"reduce_bucket_size": -1}},
            r"\.zero_optimization\.reduce_bucket_size: Input should be greater than 0, got -1",
        ),
        ({"communication_data_type": "fp64"}, r": DeepSpeed refuses it \(Invalid communication_data_type"),
    ],
)
def test_what_deepspeed_itself_refuses_is_found_before_there_is_a_student(raw, said):
    from tracestill.trainer.engine import engine

    with pytest.raises(InputError, match=f"^deepspeed{said}"):
        engine.check_block(TrainConfig(steps=1), raw)
    engine.check_block(TrainConfig(steps=1, zero=3), {"zero_optimization": {"overlap_comm": True}})


def test_what_lies_where_a_command_is_started_is_nothing_to_the_check(tmp_path, monkeypatch):
    from tracestill.trainer.engine import engine

    monkeypatch.chdir(tmp_path)
    (tmp_path / FOLDER).symlink_to("/elsewhere")
    engine.check_block(TrainConfig(steps=1), {"flops_profiler": {"enabled": True, "output_file": "flops.txt"}})
