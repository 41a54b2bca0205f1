"""The command line as a stranger meets it: light to start, clear when wrong, alone in its names."""

import json
import subprocess
import sys
from importlib.metadata import distributions
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

import ci.demo.steps
from ci.cli.main import ROOT, cli, main
from registry.config import load_gates_yaml
from registry.gates import Gates, gate_from_json

pytestmark = pytest.mark.slow

ROOMS = {"registry", "policies", "fleet", "harness", "ci"}
HEAVY = ("torch", "mujoco", "boto3", "cv2", "fastapi", "scipy", "tuf", "securesystemslib")


def imported_by(*words: str, cwd: Path) -> set[str]:
    """The top-level modules in `sys.modules` after a policyctl command ended."""
    code = (
        "import sys, json\n"
        "from ci.cli.main import main\n"
        "try:\n    main(sys.argv[1:])\nexcept SystemExit: pass\n"
        "print('\\n' + json.dumps(sorted({m.split('.')[0] for m in sys.modules})))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *words], cwd=cwd, capture_output=True, text=True, check=True
    )
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize("words", [("--help",), ("list",), ("status",)])
def test_light_commands_import_no_heavy_library(tmp_path: Path, words: tuple[str, ...]) -> None:
    subprocess.run(
        [sys.executable, "-c", "from ci.cli.main import main; main(['init'])"],
        cwd=tmp_path,
        check=True,
    )
    assert imported_by(*words, cwd=tmp_path).isdisjoint(HEAVY)


def test_every_verb_of_the_table_is_a_command_that_explains_itself() -> None:
    for verb in ROOT:
        result = CliRunner().invoke(cli, [verb, "--help"])
        assert result.exit_code == 0, (verb, result.output)
        assert "--home" in result.output
        assert "--output" in result.output


def test_an_unknown_verb_is_answered_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["promot"])
    assert ended.value.code == 2
    assert "did you mean `policyctl promote`?" in capsys.readouterr().err


def test_errors_are_json_when_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("POLICYCTL_HOME", raising=False)
    with pytest.raises(SystemExit) as ended:
        main(["list", "--output", "json"])
    assert ended.value.code == 6
    said = json.loads(capsys.readouterr().out)
    assert said["schema"] == "policyctl/1"
    assert said["error"]["code"] == "not_found"
    assert "policyctl init" in said["error"]["hint"]


def test_no_other_installed_distribution_ships_our_names() -> None:
    owners = {
        distribution.metadata["Name"]
        for distribution in distributions()
        for file in distribution.files or ()
        if len(file.parts) > 1 and file.parts[0] in ROOMS and file.suffix == ".py"
    }
    assert owners <= {"policyctl"}


def test_works_beside_the_users_own_folders_of_our_names(tmp_path: Path) -> None:
    for room in ROOMS:
        (tmp_path / room).mkdir()
        (tmp_path / room / "__init__.py").write_text("raise RuntimeError('user code was imported')")
    policyctl = Path(sys.executable).with_name("policyctl")
    done = subprocess.run(
        [policyctl, "doctor"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_a_missing_extra_is_named_with_the_command_that_brings_it(tmp_path: Path) -> None:
    code = (
        "import sys\nsys.modules['torch'] = None\n"
        "from ci.cli.main import main\nmain(['train', sys.argv[1], '--out', sys.argv[2]])"
    )
    recipe = Path(ci.demo.steps.__file__).with_name("recipes") / "v2.yaml"
    done = subprocess.run(
        [sys.executable, "-c", code, str(recipe), str(tmp_path / "out")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert "pip install 'policyctl[train]'" in done.stderr
    assert not (tmp_path / "out").exists()


def test_the_commands_of_a_hint_speak_of_the_home_that_was_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home = tmp_path / "a home"
    with pytest.raises(SystemExit):
        main(["init", str(home)])
    with pytest.raises(SystemExit):
        main(["gate", "run", "sim", "v1", "--home", str(home)])
    assert f"policyctl --home '{home}' register DIR" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["promote", "--home", str(home)])
    assert "see `policyctl promote --help`" in capsys.readouterr().err


def test_a_value_of_the_wrong_shape_is_told_in_the_words_of_the_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    robot = tmp_path / "lab.yaml"
    for arms, said in (
        ("right", "arms must be a list, not 'right'"),
        ("[right]", "arms.0 must be a mapping of keys, not 'right'"),
    ):
        robot.write_text(f"robot: lab\nclass: openarm-v2-right\narms: {arms}\n")
        with pytest.raises(SystemExit) as ended:
            main(["station", "check", str(robot)])
        assert ended.value.code == 2
        assert said in capsys.readouterr().err


def test_gates_are_shown_as_the_yaml_they_are_written_in(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["gate", "show", "box-grasp"])
    assert ended.value.code == 0
    said = capsys.readouterr().out
    shown = yaml.safe_load(said)
    assert shown["sim"]["gate"] == "grid"
    written = load_gates_yaml(Path(__file__).parents[2] / "policies/box_grasp/gates.yaml")
    read = Gates(
        *(gate_from_json(shown[name]) for name in ("sim", "hil", "canary")),  # type: ignore[arg-type]
        not_applicable=shown["not_applicable"],
        suites={name: gate_from_json(suite) for name, suite in shown["suites"].items()},  # type: ignore[misc]
    )
    assert read == written
    assert f"({read.digest})" in said.partition("\n")[0]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no disk that is always full here")
@pytest.mark.parametrize(
    ("words", "status"),
    [(("list",), 9), (("--output", "json", "list"), 9), (("--output", "json", "show", "v9"), 6)],
)
def test_a_full_disk_behind_the_output_is_no_bug(
    tmp_path: Path, words: tuple[str, ...], status: int
) -> None:
    program = "from ci.cli.main import main; main()"
    home = ("--home", str(tmp_path))
    subprocess.run([sys.executable, "-c", program, "init", *home], check=True)
    with Path("/dev/full").open("w") as full:
        ended = subprocess.run(
            [sys.executable, "-c", program, *words, *home],
            stdout=full, stderr=subprocess.PIPE, text=True, check=False,
        )  # fmt: skip
    assert ended.returncode == status
    assert "bug" not in ended.stderr
    assert "Traceback" not in ended.stderr
    assert ended.stderr.startswith("error: ")


def test_a_file_that_may_not_be_read_is_no_bug(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(*words: object, **options: object) -> None:
        raise PermissionError(13, "Permission denied", "ck/policy.yaml")

    monkeypatch.setattr(cli, "main", refused)
    with pytest.raises(SystemExit) as ended:
        main(["register", "ck"])
    said = capsys.readouterr().err
    assert ended.value.code == 9
    assert "ck/policy.yaml: Permission denied" in said
    assert "bug" not in said
