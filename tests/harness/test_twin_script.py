"""Scripts of troubles: read strictly, and happening in the twin's time."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.twin.bus import TwinBus
from harness.twin.faulty_bus import FaultyBus
from harness.twin.physics import TwinConfig, TwinWorld
from harness.twin.script import Event, Player, load_script
from registry.errors import ConfigError, Refused

GOOD = "- {at: 0, fault: silent, joint: joint1}\n"


def written(folder: Path, text: str) -> Path:
    path = folder / "script.yaml"
    path.write_text(text)
    return path


def test_events_happen_in_order_of_time_on_a_lock_step_twin(tmp_path: Path) -> None:
    events = load_script(
        written(
            tmp_path,
            "- {at: 0.3, fault: silent, joint: joint2, clear: true}\n"
            "- {at: 0.1, fault: silent, joint: joint2}\n"
            "- {at: 0.1, fault: motor, joint: gripper, details: {status: 12, coil: 105}}\n",
        )
    )
    world = TwinWorld(TwinConfig(seed=1))
    world.advance(1.0)
    player = Player(events, world)
    happened = []
    for _ in range(8):
        happened.append([event.fault for event in player.play()])
        world.advance(0.05)
    assert happened == [[], [], ["silent", "motor"], [], [], [], ["silent"], []]
    assert player.done
    assert world.bank().coil[7] > 100
    assert list(world.injected["right"]) == [("motor", "gripper")]


@pytest.mark.parametrize(
    ("text", "says", "where"),
    [
        ("fault: silent\n", "must be a list", ":1"),
        (GOOD + "- {at: 1, fault: sabotage}\n", "no fault 'sabotage'", ":2"),
        (GOOD + "- {at: -1, fault: silent}\n", "event 2", ":2: at"),
        (GOOD + "- at: 1\n  fault: silent\n  knee: 1\n", "event 2", ":4: knee"),
        (GOOD + "- {at: 1, fault: silent}\n", "event 2: silent needs a joint", ":2"),
        (GOOD + "- {at: 1, fault: silent, joint: joint9}\n", "no joint 'joint9'", ":2"),
        (GOOD + "- {at: 1, fault: silent, joint: joint1, arm: left}\n", "no left arm", ":2"),
        (GOOD + "- {at: 1, fault: dead_bus, joint: joint1}\n", "the whole arm", ":2"),
        (GOOD + "- {at: 1, fault: other_arm}\n", "no other arm", ":2"),
        (GOOD + "- {at: 1, fault: e_stop, details: {coil: 3}}\n", "takes no coil", ":2"),
        (
            GOOD + "- {at: 1, fault: motor, joint: joint1, details: {status: 99}}\n",
            "status cannot be that",
            "overload",
        ),
        (
            GOOD + "- {at: 1, fault: pose, joint: joint1, details: {turns: .nan}}\n",
            "turns cannot be that",
            ":2",
        ),
        (GOOD + "- {at: 1, fault: foreign, details: {data: 33}}\n", "data cannot be", ":2"),
        (GOOD + "- {at: 1, fault: queue_full, details: {count: .inf}}\n", "count cannot be", ":2"),
        (
            GOOD + f"- {{at: 1, fault: motor, joint: joint1, details: {{coil: 1{400 * '0'}}}}}\n",
            "coil cannot be",
            ":2",
        ),
        (
            GOOD + "- {at: 1, fault: silent, clear: true, details: {coil: 3}}\n",
            "takes no coil to end",
            ":2",
        ),
        ("- {at: 0, fault: [\n", "not YAML", ":"),
    ],
)
def test_a_script_with_a_mistake_names_the_line(
    tmp_path: Path, text: str, says: str, where: str
) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        load_script(written(tmp_path, text))
    assert where in caught.value.evidence


def test_what_cannot_happen_is_told_and_the_rest_goes_on(tmp_path: Path) -> None:
    events = load_script(
        written(tmp_path, "- {at: 0, fault: bus_off}\n- {at: 0, fault: overload, joint: joint1}\n")
    )
    world = TwinWorld(TwinConfig(seed=1))
    player = Player(events, world)
    with pytest.raises(Refused):
        list(player.play())
    assert [event.fault for event in player.play()] == ["overload"]
    FaultyBus(TwinBus(world))
    list(Player(events[:1], world).play())
    assert world.adapter().off


@pytest.mark.parametrize("status", [14, "14", "E", "0xe", "overload"])
def test_a_motor_fault_may_be_named_or_numbered(status: object) -> None:
    world = TwinWorld(TwinConfig(seed=1))
    Event(at=0, fault="motor", joint="joint3", details={"status": status}).happen(world)
    assert world.bank().status[2] == 14
