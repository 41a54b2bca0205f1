"""Where the registry of a command line is."""

from pathlib import Path

import pytest

from registry.errors import NotFound, UsageError
from registry.home import Home, find_home
from registry.service import Actor, Registry


def make(folder: Path) -> Home:
    home = Home(folder)
    Registry.open(home, Actor("tester")).close()
    return home


def test_it_is_found_walking_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = make(tmp_path / ".policyctl")
    other = make(tmp_path / "other")
    monkeypatch.setenv("POLICYCTL_HOME", str(other.root))
    deep = tmp_path / "policies" / "box_grasp"
    deep.mkdir(parents=True)
    assert find_home(start=deep) == home


def test_the_environment_names_one_where_no_folder_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = make(tmp_path / "elsewhere")
    (tmp_path / "work").mkdir()
    monkeypatch.setenv("POLICYCTL_HOME", str(home.root))
    assert find_home(start=tmp_path / "work") == home


def test_a_named_home_goes_before_all(tmp_path: Path) -> None:
    make(tmp_path / ".policyctl")
    named = make(tmp_path / "named")
    assert find_home(named.root, start=tmp_path) == named


def test_a_folder_that_holds_a_home_names_it(tmp_path: Path) -> None:
    home = make(tmp_path / ".policyctl")
    assert find_home(tmp_path, start=Path("/")) == home


def test_no_home_is_said_with_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("POLICYCTL_HOME", raising=False)
    with pytest.raises(NotFound, match="policyctl init"):
        find_home(start=tmp_path)
    with pytest.raises(NotFound, match="policyctl init"):
        find_home(tmp_path / "nothing")
    assert find_home(tmp_path / "nothing", must_exist=False) == Home(tmp_path / "nothing")


def test_a_file_is_not_a_home(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError):
        find_home(tmp_path / "file")


def test_git_never_commits_a_home(tmp_path: Path) -> None:
    assert (make(tmp_path / ".policyctl").root / ".gitignore").read_text() == "*\n"
