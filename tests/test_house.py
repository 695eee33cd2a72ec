"""The rules of the house, read from the source: who may import whom, and what is documented."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from flywheel.cli import cli

ROOT = Path(__file__).resolve().parents[1]
STAGES = ("serve", "curate", "train", "eval")
PACKAGES = ("ledger", *STAGES, "flywheel")
MODULES = sorted(
    file for package in (*PACKAGES, "benchmarks") for file in (ROOT / package).rglob("*.py")
)
# Who may import what; `benchmarks` and `tests` may import everything.
BELOW: dict[str, tuple[str, ...]] = {
    "ledger": ("ledger",),
    **{stage: ("ledger", stage) for stage in STAGES},
    "flywheel": PACKAGES,
}
# The only homes of the large libraries, as prefixes of a path.
HOMES = {
    "vllm": ("serve/plugin.py", "serve/adapters.py", "benchmarks/load.py"),
    "trl": ("train/", "benchmarks/train"),
    "peft": ("train/", "benchmarks/train"),
    "openai": ("eval/", "curate/clusters/", "curate/distill/", "flywheel/demo/", "benchmarks/"),
    "torch": ("serve/", "train/", "flywheel/", "benchmarks/"),
    "transformers": ("serve/", "train/", "flywheel/", "benchmarks/"),
    "fastapi": ("serve/", "curate/review/"),
    "starlette": ("serve/", "curate/review/"),
    "sklearn": ("curate/clusters/", "eval/drift/"),
    "datasketch": ("curate/datasets/near.py",),
}


def name(file: Path) -> str:
    return str(file.relative_to(ROOT))


def tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"), filename=str(file))


def imports(file: Path) -> Iterator[tuple[str, str]]:
    """Every import of a file, wherever it stands: the module, and the statement."""
    for node in ast.walk(tree(file)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, ast.unparse(node)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name(file)}: {ast.unparse(node)}: write the full name"
            yield node.module or "", ast.unparse(node)


def test_every_package_is_listed() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    listed = project["tool"]["setuptools"]["packages"]
    found = {
        ".".join(file.parent.relative_to(ROOT).parts)
        for file in MODULES
        if not name(file).startswith("benchmarks/")
    }
    assert set(listed) == found
    for package in listed:
        assert (ROOT / package.replace(".", "/") / "__init__.py").is_file()


@pytest.mark.parametrize("file", MODULES, ids=name)
def test_imports_go_one_way(file: Path) -> None:
    package = file.relative_to(ROOT).parts[0]
    allowed = BELOW.get(package, (*PACKAGES, "benchmarks"))
    for module, statement in imports(file):
        top = module.split(".")[0]
        if top in (*PACKAGES, "benchmarks", "tests"):
            assert top in allowed, f"{name(file)}: {statement}"
        if top in HOMES:
            assert name(file).startswith(HOMES[top]), f"{name(file)}: {statement}"


@pytest.mark.parametrize("file", [*MODULES, *sorted((ROOT / "tests").glob("*.py"))], ids=name)
def test_no_builtin_is_hidden(file: Path) -> None:
    for node in ast.walk(tree(file)):
        if isinstance(node, ast.Import):
            assert "eval" not in [alias.asname or alias.name for alias in node.names], (
                f"{name(file)}: write `from eval.x import …`"
            )
            # `import eval.x` binds the name `eval` as well.
            assert not any(a.name.startswith("eval.") and not a.asname for a in node.names)


def test_the_tests_are_flat() -> None:
    assert [
        p.name for p in (ROOT / "tests").iterdir() if p.is_dir() and p.name != "__pycache__"
    ] == []


def undocumented(file: Path) -> Iterator[str]:
    module = tree(file)
    if not ast.get_docstring(module):
        yield f"{name(file)}: the module"

    def look(body: list[ast.stmt], prefix: str) -> Iterator[str]:
        for node in body:
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                continue
            if node.name.startswith("_"):
                continue
            decorators = {ast.unparse(d) for d in node.decorator_list}
            if not ast.get_docstring(node) and "typing.overload" not in decorators:
                yield f"{name(file)}:{node.lineno}: {prefix}{node.name}"
            if isinstance(node, ast.ClassDef):
                yield from look(node.body, f"{node.name}.")

    yield from look(module.body, "")


def test_everything_public_says_what_it_is() -> None:
    files = [
        file
        for file in MODULES
        # Numbered scripts: Alembic's names say what their functions do.
        if "migrations/versions" not in name(file)
    ]
    assert [found for file in files for found in undocumented(file)] == []


def test_no_file_has_two_subjects() -> None:
    """A file that a person would call long has two; the rule is about 300 lines."""
    long = {name(file): file.read_text().count("\n") for file in MODULES}
    assert {file: lines for file, lines in long.items() if lines > 500} == {}


# -- the command line --------------------------------------------------------------------

HEAVY = ("torch", "transformers", "trl", "peft", "vllm", "datasets", "openai", "numpy", "alembic")
HEAVY += ("sklearn", "scipy", "datasketch", "fastapi", "jinja2", "pandas", "rapidfuzz")


@pytest.mark.parametrize(
    "arguments", [["--help"], ["serve", "--help"], ["--config", "configs/none.yaml", "status"]]
)
def test_the_command_line_starts_light(arguments: list[str]) -> None:
    code = (
        "import sys\n"
        "from flywheel.cli import main\n"
        f"sys.argv = ['flywheel', *{arguments!r}]\n"
        "try:\n"
        "    main()\n"
        "except SystemExit:\n"
        "    pass\n"
        f"print('LOADED', [m for m in {HEAVY!r} if m in sys.modules])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.stdout.splitlines()[-1] == "LOADED []", done.stderr


def test_the_ground_is_light() -> None:
    modules = [
        ".".join(file.relative_to(ROOT).with_suffix("").parts)
        for file in MODULES
        if name(file).startswith("ledger/") and "migrations" not in name(file)
    ]
    code = (
        f"import importlib, sys\nfor name in {modules!r}:\n    importlib.import_module(name)\n"
        f"print([m for m in {HEAVY!r} if m in sys.modules and m != 'numpy'])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


def commands(group: click.Group, prefix: str = "") -> Iterator[tuple[str, click.Command]]:
    for word, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, f"{prefix}{word} ")
        else:
            yield f"{prefix}{word}", command


def pages() -> str:
    files = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    return "\n".join(file.read_text(encoding="utf-8") for file in files if file.is_file())


def test_every_command_is_in_the_documentation() -> None:
    text = pages()
    missing = [
        f"flywheel {word}"
        for word, _ in commands(cli)
        if not re.search(rf"\bflywheel (?:[\w-]+ )*{re.escape(word)}\b", text)
        and f"`{word}`" not in text
    ]
    assert missing == []


def test_every_command_says_what_it_does_and_so_does_every_option() -> None:
    for word, command in commands(cli):
        assert command.help, word
        for parameter in command.params:
            if isinstance(parameter, click.Option):
                said: Any = parameter.help or parameter.show_default
                assert said, f"flywheel {word} {parameter.opts[0]}"


def targets() -> dict[str, str]:
    """Each target of the Makefile with what it says about itself."""
    lines = (ROOT / "Makefile").read_text().splitlines()
    found = {}
    for line in lines:
        if match := re.match(r"([a-z][a-z-]*):[^=#]*(?:## ?(.*))?$", line):
            found[match[1]] = match[2] or ""
    return found


def test_every_target_is_in_the_documentation_and_in_the_help() -> None:
    found, text = targets(), pages()
    assert {"setup", "demo", "test", "serve", "retrain", "review"} <= set(found)
    assert [target for target, said in found.items() if not said] == []
    assert [target for target in found if f"make {target}" not in text] == []


def test_the_makefile_holds_no_logic() -> None:
    recipes = [
        line.strip() for line in (ROOT / "Makefile").read_text().splitlines() if line[:1] == "\t"
    ]
    for line in recipes:
        assert not re.search(r"\b(if|for|while|case)\b[^)]*;|\|\|", line), line
