import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from pack_cases import brute_force, packs

from tracestill.kernels.pack import pack

HERE = Path(__file__).parent
TYPES = {
    "input_ids": torch.int64,
    "labels": torch.int64,
    "position_ids": torch.int64,
    "loss_weight": torch.float32,
    "kinds": torch.uint8,
    "cu_seqlens": torch.int32,
    "active": torch.int64,
}


def simple(lengths, table=(0.0, 1.0), record_weights=None, **options):
    n = sum(lengths)
    weights = np.ones(len(lengths), np.float32) if record_weights is None else np.array(record_weights, np.float32)
    return pack(
        np.arange(n, dtype=np.int32) + 10,
        np.ones(n, np.uint8),
        np.r_[0, np.cumsum(lengths)],
        weights,
        np.array(table, np.float32),
        **options,
    )


@settings(max_examples=150, deadline=None)
@given(packs())
def test_reference_equals_the_loop_over_positions(arguments):
    batch, wanted = pack(**arguments), brute_force(**arguments)
    length = len(wanted["labels"])
    for name, dtype in TYPES.items():
        got = getattr(batch, name)
        assert got.dtype == dtype, name
        assert got.flatten().tolist() == [x.item() if isinstance(x, np.generic) else x for x in wanted[name]], name
        if name in ("input_ids", "position_ids"):
            assert got.shape == (1, length)
    assert batch.max_length == wanted["max_length"]


def test_first_tokens_are_never_labels_and_documents_do_not_touch():
    batch = simple([3, 1, 2])
    assert batch.labels.tolist() == [11, 12, -100, -100, 15, -100]
    assert batch.position_ids.tolist() == [[0, 1, 2, 0, 0, 1]]
    assert batch.cu_seqlens.tolist() == [0, 3, 4, 6]
    assert batch.active.tolist() == [0, 1, 4]


def test_underflow_of_the_weight_keeps_the_position_active():
    batch = simple([4], table=(0.0, 1e-30), record_weights=[1e-30])
    assert batch.loss_weight.tolist() == [0, 0, 0, 0]
    assert batch.active.tolist() == [0, 1, 2]


def test_a_weight_for_pad_reaches_neither_padding_nor_last_tokens():
    batch = simple([3], table=(5.0, 1.0), length=6)
    assert batch.loss_weight.tolist() == [1, 1, 0, 0, 0, 0]
    assert batch.active.tolist() == [0, 1]


def test_a_pack_without_documents_is_padding_without_active_rows():
    batch = simple([], length=5, pad_id=9)
    assert batch.input_ids.tolist() == [[9] * 5]
    assert batch.labels.tolist() == [-100] * 5
    assert batch.cu_seqlens.tolist() == [0, 5]
    assert len(batch.active) == 0


def test_inputs_of_a_read_only_map_are_neither_changed_nor_shared():
    tokens = np.arange(6, dtype=np.int32)
    tokens.flags.writeable = False
    batch = pack(tokens, np.ones(6, np.uint8), np.array([0, 6]), np.ones(1, np.float32), np.ones(2, np.float32))
    batch.input_ids.add_(1)
    assert tokens.tolist() == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"offsets": np.array([0, 2, 5])}, "offsets must go from 0 to the number of tokens, 4"),
        ({"offsets": np.array([0, 2, 2, 4]), "record_weights": np.ones(3)}, "document 1 holds 0 tokens"),
        ({"record_weights": np.ones(3)}, "3 record weights for 2 documents"),
        ({"kinds": np.ones(3, np.uint8)}, "3 kinds for 4 tokens"),
        ({"kinds": np.full(4, 2, np.uint8)}, "kind 2 has no weight: the table holds 2 kinds"),
        ({"length": 3}, "4 tokens do not fit a row of length 3"),
        ({"table": np.array([0, -1.0])}, "kind weights must be finite and not negative"),
        ({"table": np.array([0, np.nan])}, "kind weights must be finite"),
        ({"record_weights": np.array([1, np.inf])}, "record weights must be finite"),
        ({"token_weights": np.array([1, 1, -2, 1])}, "token weights must be finite"),
        ({"token_weights": np.ones(3)}, "3 token weights for 4 tokens"),
        ({"backend": "cuda"}, "unknown pack backend 'cuda'; known: auto, reference, triton"),
        ({"backend": "triton"}, "'triton' needs a CUDA device, not 'cpu'"),
    ],
)
def test_bad_input_is_refused(change, message):
    arguments = {
        "tokens": np.arange(4),
        "kinds": np.ones(4, np.uint8),
        "offsets": np.array([0, 2, 4]),
        "record_weights": np.ones(2),
        "table": np.ones(2),
    } | change
    if message.startswith("'triton'"):
        pytest.importorskip("triton")
    with pytest.raises(ValueError, match=message):
        pack(**arguments)


def test_an_empty_pack_needs_a_length():
    with pytest.raises(ValueError, match="an empty pack needs a length"):
        simple([])


def run(script, **environment):
    """Runs a script of this folder in a process of its own: Triton reads its mode when it is imported."""
    paths = os.pathsep.join([str(HERE.parents[1] / "support"), *filter(None, [os.environ.get("PYTHONPATH")])])
    variables = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths, **environment}
    done = subprocess.run([sys.executable, HERE / script], capture_output=True, text=True, env=variables, timeout=300)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def test_kernel_equals_the_reference_under_the_interpreter():
    pytest.importorskip("triton")
    assert run("pack_interpreted.py", TRITON_INTERPRET="1").strip().endswith("ok")


def test_kernel_compiles_for_gpus_without_spills_or_atomics(tmp_path):
    pytest.importorskip("triton")
    report = json.loads(run("pack_aot.py", TRITON_CACHE_DIR=str(tmp_path)))
    assert len(report) == 8
    for name, measured in report.items():
        assert measured["stack"] == 0, name
        assert measured["local"] == 0, name
        assert measured["atomics"] == 0, name
        if name.startswith("sm_"):
            assert measured["vector_stores"] >= 7, name  # three int64 rows of 32 bytes a thread, and the weights
            assert measured["vector_loads"] >= 1, name  # tokens
            assert measured["instructions"] <= 530, name  # for four positions a thread


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("seed", range(20))
def test_kernel_equals_the_reference_on_a_gpu(seed):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, [3, 70, 5000][seed % 3], rng.integers(1, 60))
    n = int(lengths.sum())
    arguments = {
        "tokens": rng.integers(0, 2**31 - 1, n).astype(np.int32),
        "kinds": rng.integers(0, 5, n).astype(np.uint8),
        "offsets": np.r_[0, np.cumsum(lengths)],
        "record_weights": rng.choice([0, 1, 1e-30], len(lengths)).astype(np.float32),
        "table": rng.choice([0, 0.3, 1e-30, 2], 5).astype(np.float32),
        "length": n + int(rng.integers(0, 3)) * 777,
        "token_weights": rng.choice([0, 1, 0.5], n).astype(np.float32) if seed % 2 else None,
    }
    wanted, got = pack(**arguments), pack(**arguments, device="cuda")
    for name in TYPES:
        assert torch.equal(getattr(wanted, name), getattr(got, name).cpu()), name


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_lengths_never_recompile_the_kernel():
    from tracestill.kernels.pack.triton_pack import pack_kernel

    def compiled():
        return sum(len(entry[0]) for entry in pack_kernel.device_caches.values())

    simple([5], device="cuda")
    before = compiled()
    for lengths in ([1], [16, 16], [1024], [999, 1, 3000], [1] * 333):
        simple(lengths, device="cuda", length=sum(lengths) + 16)
    assert compiled() == before
