"""Which ZeRO stage ``train.zero: auto`` stands for, and what each stage holds. Imports no torch."""

from __future__ import annotations

FP32 = 4
ROOM = 0.6  # of a device's memory, for parameters, gradients and optimizer: activations and the loss take the rest


def state_bytes(
    zero: int, *, parameters: int, trained: int, ranks: int, number: int, optimizer: float, bucket: int
) -> dict[str, int]:
    """Bytes of parameters, gradients and optimizer on one rank, and of ZeRO's ``buckets`` when they are fullest: at
    stage 1 what it reduces from, at 2 and 3 that and a copy in fp32.

    ``number`` is the bytes of a parameter while the student computes, ``optimizer`` those of its state an element that
    learns, ``bucket`` the elements that are reduced at a time.
    """
    own = -(-trained // ranks)
    master = 0 if zero == 0 else FP32 * own
    copied = number if zero < 2 or number == FP32 else number + FP32
    return {
        "parameters": number * (-(-parameters // ranks) if zero == 3 else parameters),
        "gradients": FP32 * (own if zero >= 2 else trained),
        "optimizer": master + round(optimizer * (own if zero else trained)),
        "buckets": bucket * copied if zero else 0,
    }


def choose_stage(
    room: float, *, parameters: int, trained: int, ranks: int, number: int, optimizer: float, bucket: int, whole: bool
) -> tuple[int, str]:
    """The lowest stage whose states take no more than ROOM of ``room`` bytes a rank, and why; the highest that may be
    if none does. ``whole``: layers need their parameters whole, so that it is not 3.

    Stage 1 reduces gradients once a step, 2 and 3 in every micro-step. One rank has nothing to share out: there stage 2
    only copies more (42 bytes a parameter and micro-step in bf16, against 10), and in fp32 stage 0 does without a copy.
    """
    if ranks == 1:
        return (1, "one rank: bf16 needs fp32 copies") if number < FP32 else (0, "one rank, fp32")
    allowed = (1, 2) if whole else (1, 2, 3)
    for stage in allowed:
        found = state_bytes(
            stage,
            parameters=parameters,
            trained=trained,
            ranks=ranks,
            number=number,
            optimizer=optimizer,
            bucket=bucket,
        )
        if sum(found.values()) <= ROOM * room:
            break
    fits = "take" if sum(found.values()) <= ROOM * room else "take more than it should:"
    return stage, f"states {fits} {sum(found.values()) / 2**30:.2g} of {room / 2**30:.3g} GiB"
