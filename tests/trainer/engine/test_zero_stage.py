"""``train.zero: auto``: the lowest stage whose states fit, from figures worked out by hand."""

from __future__ import annotations

from typing import Any

import pytest

from tracestill.trainer.engine.zero_stage import choose_stage, state_bytes

N = 1_000_000_000
STUDENT: dict[str, Any] = {"parameters": N, "trained": N, "number": 2, "optimizer": 8.0, "bucket": 200_000_000}


@pytest.mark.parametrize(
    ("ranks", "room", "stage"),
    [
        # bf16 on 8 ranks, GB: ZeRO 1: 2 + 4 + 12/8 + 0.4 = 7.9; 2: 2 + 0.5 + 1.5 + 1.2 = 5.2; 3: 0.25 + 0.5 + 1.5 + 1.2
        (8, 7.9e9 / 0.6 + 1, 1),
        (8, 7.9e9 / 0.6 - 1, 2),
        (8, 5.2e9 / 0.6 + 1, 2),
        (8, 5.2e9 / 0.6 - 1, 3),
        (8, 1e9, 3),
        (1, 1e9, 1),
    ],
)
def test_the_lowest_stage_that_fits(ranks, room, stage):
    found, reason = choose_stage(room, ranks=ranks, whole=False, **STUDENT)
    assert found == stage
    assert ("more than it should" in reason) is (room == 1e9 and ranks == 8)


def test_layers_that_need_their_parameters_whole_are_not_cut():
    assert choose_stage(1e9, ranks=8, whole=True, **STUDENT)[0] == 2


def test_one_rank_in_fp32_keeps_no_copies():
    assert choose_stage(1e12, ranks=1, whole=False, **{**STUDENT, "number": 4})[0] == 0
    assert choose_stage(1e12, ranks=2, whole=False, **{**STUDENT, "number": 4})[0] == 1


def test_a_smaller_optimizer_fits_at_a_lower_stage():
    room = 7.9e9 / 0.6 - 1
    assert choose_stage(room, ranks=8, whole=False, **{**STUDENT, "optimizer": 4.0})[0] == 1


def test_states_are_shared_out_by_stage():
    at = {z: state_bytes(z, ranks=4, **STUDENT) for z in (0, 1, 2, 3)}
    assert [at[z]["parameters"] for z in (0, 1, 2, 3)] == [2 * N, 2 * N, 2 * N, N // 2]
    assert [at[z]["gradients"] for z in (0, 1, 2, 3)] == [4 * N, 4 * N, N, N]
    assert [at[z]["optimizer"] for z in (0, 1, 2, 3)] == [8 * N, 3 * N, 3 * N, 3 * N]
