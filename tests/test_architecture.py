"""Imports point down the list of layers, and each external library is used in one package."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "vqlab"
LAYERS = [
    {"caches", "errors", "malloc", "openmp", "text", "verdict", "version"},
    {"pixels"},
    {"runtime"},
    {"types", "ports", "experiment_files", "html_page"},
    {"config", "fonts", "nn", "metrics"},
    {"data", "features", "detectors", "recipes"},
    {"training", "evaluation", "checkpoint", "testing"},
    {"tracking", "plots"},
    {"model"},
    {"run"},
    {"sweep", "promote", "predict", "compare", "correlate", "doctor"},
    {"watch"},
    {"benchmark", "threshold", "export", "serve"},
    {"cli"},
    {"__init__", "__main__"},
]
LAYER = {package_of: number for number, packages in enumerate(LAYERS) for package_of in packages}
ROOM_OF_LIBRARY = {
    "mlflow": {"tracking"},
    "optuna": {"sweep"},
    "plotly": {"sweep"},
    "optuna_dashboard": {"cli", "sweep"},
    "timm": {"features"},
    "FrEIA": {"nn"},
    "cv2": {"data", "pixels"},
    "onnx": {"export"},
    "onnxruntime": {"features", "runtime"},
    "openvino": {"export", "features"},
    "pandas": {"tracking"},
    "matplotlib": {"plots", "fonts"},
    "fastapi": {"serve"},
    "starlette": {"serve"},
    "uvicorn": {"serve"},
    "prometheus_client": {"serve"},
    "typer": {"cli"},
    "rich": {"cli"},
}
FORBIDDEN_NAMES = {"utils", "helpers", "common", "core", "manager", "misc"}


def files() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def package_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path) -> Iterator[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            if node.module == "vqlab":
                yield from (f"vqlab.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", files(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_down(path: Path) -> None:
    own_package = package_of(path)
    assert own_package in LAYER, f"{own_package} stands in no layer: add it to LAYERS and to design"
    for name in imports(path):
        parts = name.split(".")
        if parts[0] != "vqlab" or len(parts) < 2 or parts[1] == own_package:
            continue
        other = parts[1]
        if other not in LAYER:  # a name of the package itself, such as UserError
            continue
        assert LAYER[other] < LAYER[own_package], (
            f"{own_package} imports {other}, which is not below it"
        )


@pytest.mark.parametrize("path", files(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_each_library_is_used_in_one_package(path: Path) -> None:
    for name in imports(path):
        packages = ROOM_OF_LIBRARY.get(name.split(".")[0])
        assert packages is None or package_of(path) in packages, (
            f"{package_of(path)} imports {name}"
        )


def test_no_generic_module_names() -> None:
    names = {part.removesuffix(".py") for p in files() for part in p.relative_to(PACKAGE).parts}
    assert not names & FORBIDDEN_NAMES


def test_experiments_contain_no_python() -> None:
    assert not list((PACKAGE.parent / "experiments").rglob("*.py"))


def test_modules_of_tests_have_unique_names() -> None:
    """Pytest imports them as top-level modules: of two modules with equal names only one is
    imported."""
    names = [
        path.name for path in Path(__file__).parent.rglob("*.py") if path.name != "conftest.py"
    ]
    assert len(names) == len(set(names)), sorted(n for n in set(names) if names.count(n) > 1)
