"""Every tutorial runs as it is written, warnings included."""

import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "tutorials"
TUTORIALS = sorted(FOLDER.glob("[0-9]_*.py"))
ARGUMENTS = {"4_train_gpg.py": ["20"]}  # instead of two minutes of training


def test_the_tutorials_are_numbered_without_gaps():
    assert [int(path.name[0]) for path in TUTORIALS] == list(range(1, len(TUTORIALS) + 1))
    assert {path.name for path in TUTORIALS} >= ARGUMENTS.keys()


@pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.name)
def test_tutorial_runs(path, tmp_path):
    # In an empty directory: a tutorial must not depend on where it is started, nor leave files.
    result = subprocess.run(
        [sys.executable, str(path), *ARGUMENTS.get(path.name, [])],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("\n") >= 5
    assert list(tmp_path.iterdir()) == []
