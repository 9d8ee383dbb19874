"""Compiles the pass over logits for GPUs that are not here and prints what the compiler made of it, as JSON.

Run in a process of its own: Triton must not have been imported in interpreter mode. Arguments: names of TARGETS and
of VARIANTS, each pair of which is compiled.
"""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from tracestill.kernels.loss.triton_pass import (
    EXCESS,
    LANES,
    LAUNCH_OPTIONS,
    NONE,
    ROW_ARGUMENTS,
    VEC,
    chunk_kernel,
)
from tracestill.kernels.loss.triton_scale import BLOCK as SCALE_BLOCK
from tracestill.kernels.loss.triton_scale import scale_kernel

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "sm_100": GPUTarget("cuda", 100, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}
PLAIN = {
    "GRADIENT": True,
    "DYNAMIC": NONE.value,
    "BY_KIND": False,
    "HAS_BIAS": False,
    "HAS_SCALE": False,
    "HAS_CAP": False,
    "HAS_SMOOTHING": False,
    "HAS_Z_LOSS": False,
    "K": 0,
    "K_BLOCK": 1,
    "DIVERGENCE": 0,
    "BETA": 0.5,
    "TOP": False,
}
EVERYTHING = {
    "GRADIENT": True,
    "DYNAMIC": EXCESS.value,
    "BY_KIND": True,
    "HAS_BIAS": True,
    "HAS_SCALE": True,
    "HAS_CAP": True,
    "HAS_SMOOTHING": True,
    "HAS_Z_LOSS": True,
    "K": 128,
    "K_BLOCK": 128,
    "DIVERGENCE": 2,
    "BETA": 0.5,
    "TOP": False,  # nobody asks for it beside a gradient
}
ROWS = PLAIN | {"GRADIENT": False, "TOP": True, "HAS_BIAS": True, "HAS_SCALE": True}
VARIANTS = {
    "plain": PLAIN,
    "even": PLAIN | {"TAIL": False},
    "statistics": PLAIN | {"GRADIENT": False},
    "rows": ROWS,
    "rows_capped": ROWS | {"HAS_CAP": True},
    "softcap": PLAIN | {"HAS_CAP": True},
    "smoothing": PLAIN | {"HAS_SMOOTHING": True},
    "teacher": PLAIN | {"K": 50, "K_BLOCK": 64},
    "stored": PLAIN | {"K": 32, "K_BLOCK": 32, "DIVERGENCE": 2},
    "uncapped": EVERYTHING | {"HAS_CAP": False, "K": 0, "K_BLOCK": 1},
    "everything": EVERYTHING,
}
TYPES = {
    "targets": "*i64",
    "teacher_ids": "*i64",
    "multiplied": "*u8",
    "top_out": "*i64",
    "stride": "i32",
    "vocabulary": "i32",
}


SHAPE = {"TAIL": True, "LANES": LANES, "VEC": VEC}  # a V that 16 does not divide: the worst case
THREADS = 1024


STORED = {"teacher_ids": "*i32", "teacher_log_probs": "*fp16"}  # as channels hold them


def compiled(target: GPUTarget, variant: dict, types: dict, logits: str = "bf16"):
    names = chunk_kernel.arg_names
    signature, aligned = {}, {}
    for index, name in enumerate(names):
        if name in variant or name in SHAPE:
            signature[name] = "constexpr"
        elif name in ("logits", "bias"):
            signature[name] = f"*{logits}"
        elif name in ROW_ARGUMENTS:
            signature[name] = types.get(name, "*fp32")
        else:
            signature[name] = types.get(name, "fp32")
        # `vocabulary` is left unaligned: the worst case, a V that 16 does not divide.
        if name in ("logits", "bias", "stride"):
            aligned[(index,)] = [["tt.divisibility", 16]]
    warps = LAUNCH_OPTIONS["num_warps"] if target.backend == "cuda" else 16  # of 64 threads there
    source = ASTSource(chunk_kernel, signature, SHAPE | variant, aligned)
    return triton.compile(source, target=target, options=LAUNCH_OPTIONS | {"num_warps": warps})


def compiled_scale(target: GPUTarget):
    """The kernel that scales a gradient and rounds it to bf16."""
    signature = {"grad": "*fp32", "factor": "*fp32", "out": "*bf16", "count": "i32", "BLOCK": "constexpr"}
    aligned = {(index,): [["tt.divisibility", 16]] for index in (0, 2, 3)}
    source = ASTSource(scale_kernel, signature, {"BLOCK": SCALE_BLOCK}, aligned)
    return triton.compile(source, target=target, options={"num_warps": 8})


def nvidia(kernel) -> dict[str, int]:
    """Registers, stack bytes, local-memory instructions and vector accesses."""
    tools = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(kernel.asm["cubin"])
        usage = subprocess.run([tools / "cuobjdump", "-res-usage", path], capture_output=True, text=True, check=True)
        sass = subprocess.run([tools / "nvdisasm", "-c", path], capture_output=True, text=True, check=True)
    text = usage.stdout + usage.stderr
    return {
        "registers": int(re.search(r"REG:(\d+)", text)[1]),
        "stack": int(re.search(r"STACK:(\d+)", text)[1]),
        "local": len(re.findall(r"\b(?:STL|LDL)\b", sass.stdout)),
        "loops": loops(sass.stdout),
        "vector_loads": len(re.findall(r"\bLDG\.E\S*\.128", sass.stdout)),
        "vector_stores": len(re.findall(r"\bSTG\.E\S*\.128", sass.stdout)),
        "barriers": len(re.findall(r"\bbar\.sync", kernel.asm["ptx"])),
        "atomics": len(re.findall(r"\b(?:ATOMG?|RED)\b", sass.stdout)),
    }


def loops(sass: str) -> list[dict[str, float]]:
    """The loops over a row in a kernel's machine code: instructions for 16 elements, barriers, exchanges of lanes."""
    labels, instructions, found = {}, [], []
    for line in sass.splitlines():
        if label := re.match(r"\s*(\.L_x_\d+):", line):
            labels[label[1]] = len(instructions)
        elif code := re.match(r"\s*/\*[0-9a-f]+\*/\s+(.*?);", line):
            instructions.append(code[1])
            back = re.search(r"\bBRA\b.*?(\.L_x_\d+)", code[1])
            if back and labels.get(back[1], len(instructions)) < len(instructions) - 5:
                body = instructions[labels[back[1]] :]
                found.append(
                    {
                        "instructions": len(body) * 16 * THREADS / (LANES * VEC),
                        "barriers": sum("BAR.SYNC" in each for each in body),
                        "shuffles": sum("SHFL" in each for each in body),
                    }
                )
    return found


def amd(kernel) -> dict[str, int]:
    """Registers and spilled registers from the code object's metadata."""
    keys = r"\.(vgpr_count|vgpr_spill_count|sgpr_spill_count|private_segment_fixed_size):\s*(\d+)"
    found = {key: int(value) for key, value in re.findall(keys, kernel.asm["amdgcn"])}
    return {
        "registers": found["vgpr_count"],
        "stack": found["private_segment_fixed_size"],
        "local": found["vgpr_spill_count"] + found["sgpr_spill_count"],
        "atomics": len(re.findall(r"\bglobal_atomic", kernel.asm["amdgcn"])),
    }


def main(targets: str, variants: str) -> None:
    report = {}
    for name in targets.split(","):
        for variant in variants.split(","):
            if variant == "scale":
                kernel = compiled_scale(TARGETS[name])
            else:
                types = TYPES | (STORED if variant == "stored" else {})
                kernel = compiled(TARGETS[name], VARIANTS[variant], types)
            report[f"{name} {variant}"] = amd(kernel) if TARGETS[name].backend == "hip" else nvidia(kernel)
    print(json.dumps(report))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
