"""Every command, file and Python name in the README is real."""

import ast
import re
import shlex
from pathlib import Path

import pytest

import cdjax
from cdjax import cli, config

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
COMMANDS = [line for kind, block in BLOCKS if not kind for line in block.replace("\\\n", "").splitlines()]


@pytest.mark.parametrize("line", [line for line in COMMANDS if "cdjax " in line])
def test_a_command_in_the_readme_is_understood(line):
    words = shlex.split(line)
    arguments = cli.parser().parse_args(words[words.index("cdjax") + 1 :])
    assert arguments.command.__name__ == f"_{words[words.index('cdjax') + 1]}"
    if getattr(arguments, "config", None):
        given = config.load_config(ROOT / arguments.config)
        config.override(given, dict(arguments.set))


@pytest.mark.parametrize("target", [line.split()[1] for line in COMMANDS if line.startswith("make ")])
def test_a_make_target_in_the_readme_exists(target):
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)


def test_the_python_in_the_readme_uses_public_names():
    (code,) = (block for kind, block in BLOCKS if kind == "python")
    used = {
        node.attr
        for node in ast.walk(ast.parse(code))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "cdjax"
    }
    assert used and used <= set(cdjax.__all__)


def test_files_named_in_the_readme_exist():
    rooms = "configs|tests|experiments|distill|tasks|views|sampling"
    named = re.findall(rf"`((?:{rooms})/[\w/.]*)`|\]\((?!http)([^)]+)\)", README)
    for path in (one or other for one, other in named):
        assert (ROOT / path).exists() or (ROOT / "cdjax" / path).exists(), path
