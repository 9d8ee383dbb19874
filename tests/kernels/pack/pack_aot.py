"""Compiles the packing kernel for GPUs that are not here and prints what the compiler made of it, as JSON.

Run in a process of its own: Triton must not have been imported in interpreter mode.
"""

import json
import re
import subprocess
import tempfile
from pathlib import Path

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from tracestill.kernels.pack import BLOCK
from tracestill.kernels.pack.triton_pack import OPTIONS, pack_kernel

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "sm_100": GPUTarget("cuda", 100, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}
POINTERS = {
    "tokens": "*i32",
    "kinds": "*u8",
    "bounds": "*i32",
    "record_weights": "*fp32",
    "table": "*fp32",
    "token_weights": "*fp32",
    "counts": "*i32",
    "segments": "*i32",
    "input_ids": "*i64",
    "labels": "*i64",
    "position_ids": "*i64",
    "loss_weight": "*fp32",
    "label_kinds": "*u8",
    "active": "*i64",
}
SIGNATURE = {
    **POINTERS,
    "n": "i32",
    "pad_id": "i32",
    "HAS_TOKEN_WEIGHTS": "constexpr",
    "BLOCK": "constexpr",
}


def compiled(target: GPUTarget, token_weights: bool):
    aligned = {(index,): [["tt.divisibility", 16]] for index in range(len(POINTERS))}
    source = ASTSource(pack_kernel, SIGNATURE, {"HAS_TOKEN_WEIGHTS": token_weights, "BLOCK": BLOCK}, aligned)
    return triton.compile(source, target=target, options=OPTIONS)


def nvidia(cubin: bytes) -> dict[str, int]:
    """Registers, stack bytes, instructions, and those among them that a cubin should have many or none of."""
    tools = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(cubin)
        usage = subprocess.run([tools / "cuobjdump", "-res-usage", path], capture_output=True, text=True, check=True)
        sass = subprocess.run([tools / "nvdisasm", "-c", path], capture_output=True, text=True, check=True)
    text = usage.stdout + usage.stderr
    return {
        "registers": int(re.search(r"REG:(\d+)", text)[1]),
        "stack": int(re.search(r"STACK:(\d+)", text)[1]),
        "local": len(re.findall(r"\b(?:STL|LDL)\b", sass.stdout)),
        "instructions": len(re.findall(r"^\s*/\*[0-9a-f]+\*/\s+(?!NOP)\S.*;", sass.stdout, re.MULTILINE)),
        "vector_loads": len(re.findall(r"\bLDG\.E\S*\.128", sass.stdout)),
        "vector_stores": len(re.findall(r"\bSTG\.E\S*\.128", sass.stdout)),
        "atomics": len(re.findall(r"\b(?:ATOMG?|RED)\b", sass.stdout)),
    }


def amd(assembly: str) -> dict[str, int]:
    """Registers and spilled registers from the code object's metadata."""
    found = {
        key: int(value)
        for key, value in re.findall(
            r"\.(vgpr_count|vgpr_spill_count|sgpr_spill_count|private_segment_fixed_size):\s*(\d+)", assembly
        )
    }
    return {
        "registers": found["vgpr_count"],
        "stack": found["private_segment_fixed_size"],
        "local": found["vgpr_spill_count"] + found["sgpr_spill_count"],
        "atomics": len(re.findall(r"\bglobal_atomic", assembly)),
    }


def main() -> None:
    lengths = [p for p in pack_kernel.params if not p.is_constexpr and p.name not in POINTERS]
    assert lengths, "no argument that is a number"
    assert all(p.do_not_specialize for p in lengths), "a length would be specialised on, and compile again"
    report = {}
    for name, target in TARGETS.items():
        for token_weights in (False, True):
            kernel = compiled(target, token_weights)
            measured = nvidia(kernel.asm["cubin"]) if target.backend == "cuda" else amd(kernel.asm["amdgcn"])
            report[f"{name} token_weights={token_weights}"] = measured
    print(json.dumps(report))


if __name__ == "__main__":
    main()
