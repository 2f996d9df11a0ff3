"""Imports run strictly downward; heavy packages are imported where they are used."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "mmsearch"

LAYERS = [
    {"errors", "home", "models", "types"},
    {"encoders", "filters", "media", "metrics", "vectors"},
    {"storage"},
    {"spaces"},
    {"indexing", "search"},
    {"collection"},
    {"__main__", "cli", "evaluation", "server", "training"},
]
"""From the ground up; a module may import from lower layers and from its own package only."""

SIDEWAYS = {("home", "errors"), ("cli", "evaluation"), ("cli", "server"), ("__main__", "cli")}
SIDEWAYS |= {("cli", "training"), ("training", "evaluation")}
"""The imports within a layer that there are besides."""

HEAVY = {"torch", "open_clip", "transformers", "faiss", "onnxruntime", "numpy", "PIL", "tokenizers"}
HEAVY |= {"av", "soundfile", "soxr", "pypdfium2", "rapidocr", "faster_whisper", "huggingface_hub"}
HEAVY |= {"anydoc", "chardet", "filelock", "openai", "pillow_jxl", "pyarrow", "rawpy"}
HEAVY |= {"textual_image", "watchfiles"}


SERVER = {"fastapi", "starlette", "pydantic", "uvicorn", "prometheus_client", "mcp"}
"""What the server alone is built on."""


def layer_of(name: str) -> int:
    return next(number for number, names in enumerate(LAYERS) if name in names)


def modules() -> list[Path]:
    return [path for path in sorted(PACKAGE.rglob("*.py")) if path != PACKAGE / "__init__.py"]


def part_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    """The parts of mmsearch that a module imports, at any depth of its code."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            if node.module == "mmsearch":
                names.update(alias.name for alias in node.names)
            elif node.module.startswith("mmsearch."):
                names.add(node.module.split(".")[1])
        elif isinstance(node, ast.Import):
            names.update(a.name.split(".")[1] for a in node.names if a.name.startswith("mmsearch."))
    return names - {"__version__"}


@pytest.mark.parametrize("path", modules(), ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_imports_run_strictly_downward(path: Path):
    own = part_of(path)
    for other in imported(path) - {own}:
        downward = layer_of(other) < layer_of(own)
        assert downward or (own, other) in SIDEWAYS, f"{own} imports {other}"


def test_the_documentation_draws_the_same_layers():
    text = (PACKAGE.parent / "docs" / "architecture.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| \d+ \| ([^|]*) \|", text, re.MULTILINE)
    assert [set(re.findall(r"`(\w+)`", row)) for row in rows] == LAYERS


def test_every_module_has_a_layer():
    assert {part_of(path) for path in modules()} == set().union(*LAYERS)


def test_at_most_twenty_names_lie_at_the_top():
    names = {part_of(path) for path in modules()} | {"__init__", "server"}
    assert len(names) <= 20


@pytest.mark.parametrize("path", modules(), ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_heavy_packages_are_imported_where_they_are_used(path: Path):
    if part_of(path) == "training":
        return  # torch is all it is about
    tree = ast.parse(path.read_text(encoding="utf-8"))
    at_import = [node for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom))]
    names = {
        name.split(".")[0]
        for node in at_import
        for name in (
            [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else [a.name for a in node.names]
        )
    }
    assert not names & (HEAVY if part_of(path) == "server" else HEAVY | SERVER)


def modules_after(code: str) -> set[str]:
    script = f"import sys\n{code}\nprint('\\n'.join(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())


def test_importing_mmsearch_brings_nothing_heavy():
    assert not modules_after("import mmsearch") & (HEAVY | SERVER | {"sqlalchemy", "typer"})


def test_a_query_on_the_built_in_model_never_imports_torch(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "note.txt").write_text("a note about a dog")
    code = (
        "import mmsearch\n"
        f"library = mmsearch.index({str(tmp_path / 'photos')!r}, into={str(tmp_path / 'i')!r})\n"
        "assert library.search('a dog')"
    )
    assert not modules_after(code) & {"torch", "transformers", "open_clip", "rich"}


def test_no_command_but_serve_imports_what_the_server_is_built_on():
    code = "from mmsearch.cli.app import app\nfrom typer.testing import CliRunner\n"
    code += "assert CliRunner().invoke(app, ['serve', '--help']).exit_code == 0\n"
    code += "assert CliRunner().invoke(app, ['mcp', '--help']).exit_code == 0\n"
    code += "assert CliRunner().invoke(app, ['query', '-i', './none', 'a dog']).exit_code == 3"
    assert not modules_after(code) & SERVER


def test_the_tools_of_assistants_need_no_fastapi_and_bring_no_model():
    pytest.importorskip("mcp")
    heavy = HEAVY - {"watchfiles"} | {"fastapi"}  # uvicorn, which the SDK imports, imports it
    assert not modules_after("import mmsearch.server.mcp") & heavy
