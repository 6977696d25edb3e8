"""Which files are read."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.recipes.ingest.conftest import recipe


def test_links_out_of_the_folder_and_hidden_files_are_not_read(tmp_path: Path) -> None:
    inside, outside = tmp_path / "docs", tmp_path / "secret.md"
    (inside / ".git").mkdir(parents=True)
    (inside / ".git/config.md").write_text("hidden")
    (inside / "a.md").write_text("a")
    outside.write_text("secret")
    (inside / "b.md").symlink_to(outside)
    (inside / "c.md").symlink_to(inside / "nothing")
    (inside / "up").symlink_to(tmp_path)
    found = {path.name: why for path, why in recipe.files.find_files(inside, "")}
    assert found == {
        "a.md": "",
        "b.md": "a symbolic link that leads out of the folder",
        "c.md": "a symbolic link to nothing",
        "up": "a symbolic link to a folder is not followed",
    }


@pytest.mark.parametrize(
    ("path", "pattern", "wanted"),
    [
        ("a.md", "*.md", True),
        ("a.md", "**/*.md", True),
        ("x/a.md", "**/*.md", True),
        ("a.txt", "*.md", False),
    ],
)
def test_patterns_match_as_in_a_shell(path: str, pattern: str, wanted: bool) -> None:
    assert recipe.files.matches(path, pattern) is wanted
