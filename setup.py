"""Installs cdjax on two Python lines: 3.11 with the last jax that supports it, 3.12+ with the newest."""

from setuptools import find_packages, setup

setup(
    name="cdjax",
    version="0.1.0",
    description="Context distillation in JAX",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(include=["cdjax", "cdjax.*"]),
    package_data={"cdjax": ["report/report.jinja", "tasks/data/*", "model/files/data/*/*"]},
    entry_points={"console_scripts": ["cdjax = cdjax.cli:main"]},
    install_requires=[
        "jax==0.10.2; python_version < '3.12'",
        "flax==0.12.8; python_version < '3.12'",
        "jax>=0.12,<0.13; python_version >= '3.12'",
        "flax>=0.12.12,<0.13; python_version >= '3.12'",
        "optax>=0.2.8",
        "orbax-checkpoint>=0.12.8",
        "transformers>=5.23",
        "jinja2",  # report.html, and transformers' chat templates, which need it and do not declare it
        "tensorflow-datasets>=4.9.10",
        "importlib_resources",  # tensorflow-datasets needs it and does not declare it
        "safetensors",
        "gguf",  # reads .gguf files; kept by llama.cpp
        "sqlglot>=30,<31",  # parses SQL for Spider; pure Python; names in its trees change between majors
        "jaxtyping",
        "numpy",
        "rich>=14.1",  # progress bars, one inside another
        "matplotlib",  # plots in report.html
    ],
    extras_require={
        "tasks": ["rouge-score"],  # grades Natural-Instructions; brings nltk
        "select": ["bm25s>=0.3.16"],  # ranks demonstrations by BM25 with numpy alone; in use and kept up
        "dev": ["cdjax[select,tasks]", "pytest", "pytest-xdist", "beartype", "ruff>=0.17,<0.18", "mypy>=2.4,<2.5"],
        "parity": ["torch==2.13.0; python_version < '3.12'"],  # reference logits in tests; never a requirement
        "tpu": ["jax[tpu]"],  # runs on TPUs, and compiles for them anywhere; libtpu is 640 MB
    },
)
