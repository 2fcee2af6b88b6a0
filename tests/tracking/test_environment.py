"""Tags that describe the environment of a run."""

from __future__ import annotations

import subprocess
from pathlib import Path

from vqlab.tracking.environment import git_tags


def test_git(tmp_path: Path) -> None:
    package = tmp_path / "repository" / "package"
    package.mkdir(parents=True)
    (package / "code.py").write_text("1\n")
    assert git_tags(package) == {}

    def git(*arguments: str) -> str:
        identity = ["-c", "user.name=t", "-c", "user.email=t@t", "-c", "init.defaultBranch=main"]
        command = ["git", *identity, "-C", str(package.parent), *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    git("init")
    assert git_tags(package) == {}
    git("commit", "--allow-empty", "-m", "empty")
    assert git_tags(package) == {}  # not of this repository: an installed copy
    git("add", ".")
    git("commit", "-m", "first")
    (package.parent / "result.txt").write_text("not code")
    commit = {"mlflow.source.git.commit": git("rev-parse", "HEAD")}
    assert git_tags(package) == {**commit, "vqlab.git_dirty": "false"}
    (package / "code.py").write_text("2\n")
    assert git_tags(package) == {**commit, "vqlab.git_dirty": "true"}
