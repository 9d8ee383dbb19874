"""The folders at the root share names with other people's packages; none of them may be shadowed by ours.

Hugging Face's ``kernels`` is installed for these tests. Everything runs from the repository root, where Python
would find our folders first if they were regular packages.
"""

import importlib.metadata
import shutil
import subprocess
import sys
from pathlib import Path

import kernels

ROOT = Path(__file__).parents[3]


def run(command, **options):
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False, **options)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_hugging_faces_kernels_is_the_one_that_python_finds_at_the_root():
    code = "import kernels, tracestill.kernels.pack.packed as ours; print(kernels.__file__); print(ours.__file__)"
    theirs, ours = run([sys.executable, "-c", code]).splitlines()
    assert Path(theirs) == Path(kernels.__file__)
    assert Path(ours) == ROOT / "kernels/pack/packed.py"


def test_no_folder_of_ours_is_importable_by_its_bare_name_elsewhere(tmp_path):
    code = (
        "import importlib.util as u; "
        "print([n for n in ('trainer', 'launch', 'data_pipeline') if u.find_spec(n)], u.find_spec('kernels').origin)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.split(" ", 1) == ["[]", f"{kernels.__file__}\n"]


def test_transformers_imports_the_real_kernels_from_the_root(tmp_path):
    """transformers asks for a newer version than some index offers; a copy under that number makes it import it."""
    from transformers.utils import import_utils

    site = Path(kernels.__file__).parents[1]
    shutil.copytree(site / "kernels", tmp_path / "kernels")
    version = importlib.metadata.version("kernels")
    info = shutil.copytree(site / f"kernels-{version}.dist-info", tmp_path / "kernels-0.dist-info")
    text = (
        (info / "METADATA").read_text().replace(f"Version: {version}", f"Version: {import_utils.KERNELS_MIN_VERSION}")
    )
    (info / "METADATA").write_text(text)
    code = (
        "import sys, transformers.integrations.hub_kernels as h; import transformers.utils.import_utils as u; "
        "print(u.is_kernels_available(), sys.modules['kernels'].__file__); import transformers; transformers.LlamaModel"
    )
    available, where = run([sys.executable, "-c", code], env={"PYTHONPATH": str(tmp_path)}).split()
    assert available == "True"
    assert Path(where) == tmp_path / "kernels/__init__.py"
