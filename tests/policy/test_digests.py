"""A digest changes with the content, and with nothing else."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentd.errors import InputError
from agentd.policy import digests
from agentd.policy.digests import digest_file, digest_tree, digest_value

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), JSON, min_size=2, max_size=5))
def test_the_order_of_keys_does_not_matter(value: dict[str, object]) -> None:
    assert digest_value(dict(reversed(value.items()))) == digest_value(value)


@given(JSON, JSON)
def test_different_values_have_different_digests(one: object, other: object) -> None:
    same = digest_value(one) == digest_value(other)
    assert same == (json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_json_cannot_say_is_refused(value: float) -> None:
    with pytest.raises(InputError, match="NaN and infinity"):
        digest_value({"learning_rate": value})


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    (folder / "inner").mkdir(parents=True)
    (folder / "a.txt").write_text("a", encoding="utf-8")
    (folder / "inner/b.txt").write_text("b", encoding="utf-8")
    return folder


def test_a_folder_elsewhere_with_the_same_content_has_the_same_digest(tree: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(tree, tmp_path / "copy")
    assert digest_tree(copy) == digest_tree(tree)


def test_content_names_and_places_all_count(tree: Path) -> None:
    seen = {digest_tree(tree)}
    (tree / "a.txt").write_text("A", encoding="utf-8")
    seen.add(digest_tree(tree))
    (tree / "a.txt").rename(tree / "c.txt")
    seen.add(digest_tree(tree))
    (tree / "c.txt").rename(tree / "inner/c.txt")
    seen.add(digest_tree(tree))
    (tree / "empty").touch()
    seen.add(digest_tree(tree))
    assert len(seen) == 5


def test_a_file_is_its_content(tree: Path) -> None:
    assert digest_tree(tree / "a.txt") == digest_file(tree / "a.txt")


def test_a_link_within_the_folder_counts_as_what_it_names(tree: Path) -> None:
    (tree / "link").symlink_to("a.txt")
    linked = digest_tree(tree)
    (tree / "link").unlink()
    shutil.copy(tree / "a.txt", tree / "link")
    assert digest_tree(tree) == linked


def test_a_link_out_of_the_folder_is_refused(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("s", encoding="utf-8")
    (tree / "link").symlink_to(tmp_path / "secret")
    with pytest.raises(InputError, match="is a link out of"):
        digest_tree(tree)


def test_a_linked_folder_counts_as_what_lies_in_it(tree: Path) -> None:
    (tree / "again").symlink_to("inner", target_is_directory=True)
    linked = digest_tree(tree)
    (tree / "again").unlink()
    shutil.copytree(tree / "inner", tree / "again")
    assert digest_tree(tree) == linked
    (tree / "again/b.txt").write_text("B", encoding="utf-8")
    assert digest_tree(tree) != linked


def test_an_empty_folder_counts(tree: Path) -> None:
    before = digest_tree(tree)
    (tree / "void").mkdir()
    assert digest_tree(tree) != before


def test_what_cannot_be_looked_at_whole_is_refused(tree: Path, tmp_path: Path) -> None:
    odd = tree / "odd"
    odd.symlink_to("nowhere")
    with pytest.raises(InputError, match="or a link to nothing"):
        digest_tree(tree)
    odd.unlink()
    odd.symlink_to(".", target_is_directory=True)
    with pytest.raises(InputError, match="is a link to a folder it lies in"):
        digest_tree(tree)
    odd.unlink()
    odd.symlink_to(tmp_path, target_is_directory=True)
    with pytest.raises(InputError, match="is a link out of"):
        digest_tree(tree)
    odd.unlink()
    os.mkfifo(odd)
    with pytest.raises(InputError, match="neither a file nor a folder"):
        digest_tree(tree)


def test_a_text_that_is_no_text_is_refused() -> None:
    with pytest.raises(InputError, match="which is no character"):
        digest_value({"text": "\ud800"})


def test_a_large_file_is_read_once_until_something_touches_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(digests, "_SETTLED_S", 0.0)
    read: list[str] = []
    original = hashlib.file_digest
    monkeypatch.setattr(hashlib, "file_digest", lambda *a: (read.append("once"), original(*a))[1])
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"a" * digests._LARGE)
    time.sleep(0.05)  # a tick of the file system's clock
    first = digest_file(path)
    assert digest_file(path) == first
    assert len(read) == 1

    times = path.stat()
    with path.open("r+b") as file:  # as somebody would who wants it not to be seen
        file.write(b"b")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    time.sleep(0.05)
    assert path.stat().st_mtime_ns == times.st_mtime_ns
    assert digest_file(path) != first


def test_a_file_that_was_just_written_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"a" * digests._LARGE)
    first = digest_file(path)
    with path.open("r+b") as file:
        file.write(b"b")
    assert digest_file(path) != first


def test_what_nobody_writes_any_more_is_remembered_however_young(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"a" * digests._LARGE)
    before = digest_tree(tmp_path, still=True)
    monkeypatch.setattr(hashlib, "file_digest", None)
    assert digest_tree(tmp_path) == before
