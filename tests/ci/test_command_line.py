"""The command line as a stranger meets it: light to start, clear when wrong, alone in its names."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import distributions
from pathlib import Path

import click
import pytest
import yaml
from click.testing import CliRunner

import ci.demo.steps
from ci.agent import command as agent
from ci.cli.main import ROOT, cli, main
from ci.cli.verbs import with_home
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


@pytest.mark.parametrize(
    "words",
    [
        ("register", ".", "--policy", "box-grasp", "--commit", "\udcff"),
        ("rollback", "box-grasp", "--reason", "\udcff\udcfe"),
        ("show", "v1", "--home", "\udcff"),
    ],
)
def test_an_argument_that_is_no_text_is_refused_before_anything_else(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: tuple[str, ...],
) -> None:
    """Python hands on bytes that are not UTF-8 as surrogates, which nothing here can write."""
    monkeypatch.chdir(tmp_path)
    for form in ("text", "json"):
        with pytest.raises(SystemExit) as ended:
            main([*words, "--output", form])
        assert ended.value.code == 2
        said = capsys.readouterr()
        assert "not UTF-8" in said.out + said.err
    assert list(tmp_path.iterdir()) == []


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
    prose = "upgrade policyctl on this machine"
    assert with_home(prose, str(home)) == prose


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


def commands(command: click.Command) -> Iterator[click.Command]:
    yield command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            child = command.get_command(context, name)
            assert child is not None
            yield from commands(child)


@pytest.mark.parametrize("number", ["nan", "inf", "-inf"])
def test_no_command_takes_what_is_no_number(number: str) -> None:
    found = 0
    for command in (*commands(cli), agent):
        for option in command.params:
            if isinstance(option.type, click.types.FloatParamType):
                found += 1
                with pytest.raises(click.BadParameter):
                    option.type.convert(number, option, None)
    assert found > 5


def test_a_folder_in_a_files_place_is_no_bug(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("lab.yaml").write_text(
        "{robot: lab-01, role: lab, class: openarm-v2-right, twin: {seed: 7},"
        " arms: [{name: right, bus: {interface: twin}}]}"
    )
    stock = tmp_path / ".policyctl" / "hil" / "lab-01" / "stock.json"
    with pytest.raises(SystemExit):
        main(["init"])
    stock.mkdir(parents=True)
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main(["station", "stock", "lab.yaml", "cube"])
    said = capsys.readouterr().err
    assert ended.value.code == 9
    assert "Traceback" not in said
    assert str(stock) in said


UNDOING = """
import signal, sys, types
import click
from ci.cli.main import ROOT, main
class Tried(types.ModuleType):
    @click.command()
    def command():
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            signal.raise_signal(signal.SIGTERM)
            print("undone")
sys.modules["tried"] = Tried("tried")
ROOT["try"] = ("tried", "A command that is ended.")
main(["try"])
"""


def test_a_sigterm_that_comes_twice_cuts_short_nothing_that_is_being_undone() -> None:
    """`timeout` tells its command, and then the group that the command is in."""
    done = subprocess.run(
        [sys.executable, "-c", UNDOING], capture_output=True, text=True, check=False
    )
    assert done.returncode == 130, done.stderr
    assert done.stdout == "undone\n"
    assert "Traceback" not in done.stderr


ENDED_EARLY = """
import signal, sys
from ci.cli.main import main
class Told:
    def find_spec(self, name, path=None, target=None):
        if name == "fleet.controller":
            signal.raise_signal({number})
sys.meta_path.insert(0, Told())
main(["server", "--home", sys.argv[1]])
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_server_that_is_told_to_end_before_it_began_ends_well(
    tmp_path: Path, number: signal.Signals
) -> None:
    """What supervises it takes any other status for a failure."""
    with pytest.raises(SystemExit):
        main(["init", "--home", str(tmp_path)])
    done = subprocess.run(
        [sys.executable, "-c", ENDED_EARLY.format(number=int(number)), tmp_path],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout == "stopped\n"
