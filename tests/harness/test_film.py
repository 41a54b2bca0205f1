"""An episode that is filmed is the episode that was played."""

from __future__ import annotations

import contextlib
import io
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image
from sim_policies import ExpertPolicy, Rows, contract, world
from vision_policies import CELL

from harness.sim.env import BatchEnv
from harness.sim.episode import EpisodeSpec
from harness.sim.film import WEBP_BYTES, Film, Filming, View, film, mp4, webp
from harness.sim.grid import Grid
from harness.sim.replay import Replayer
from harness.sim.results import pack, row
from harness.sim.runner import play
from registry.errors import ServiceFailed, UsageError

pytestmark = pytest.mark.slow

SPEC = EpisodeSpec(CELL, 1, world(friction=0.5))


@pytest.fixture(scope="module")
def made() -> Film:
    return film(ExpertPolicy(), SPEC, View(visuals=False))


def test_filming_changes_no_bit(made: Film) -> None:
    policy = ExpertPolicy()
    (record,) = play(BatchEnv(policy.contract, 1), policy.act, [SPEC])
    assert made.record == record
    assert made.record.digest == record.digest


class Silent(ExpertPolicy):
    """Another engine's answer to it: none that may be shown."""

    def act(self, observation: Rows) -> Rows:
        raise AssertionError("the policy was asked")


def test_a_film_of_a_replay_by_actions_shows_the_recorded_episode(made: Film) -> None:
    grid = Grid.of("box-grasp", {"friction": (0.5,)}, 1)
    kept = replace(row(grid, 0, made.record), actions=pack(made.record.actions))
    with contextlib.closing(Filming(contract(), View(visuals=False))) as filming:
        player = Replayer(Silent(), filming.scene)
        again = player.replay(SPEC, kept, same_engine=False, watch=filming)
        shown = filming.film(again.record)
    assert (again.by, shown.record.digest) == ("actions", made.record.digest)
    assert len(shown.frames) == len(made.frames)
    assert all((a == b).all() for a, b in zip(shown.frames, made.frames, strict=True))


def test_frames_show_the_whole_episode(made: Film) -> None:
    assert made.fps == 25
    assert len(made.frames) == (made.record.steps + 1) // 2 + 1
    assert made.frames[0].shape == (240, 320, 3)
    assert (made.frames[0] != made.frames[-1]).any()


def test_an_mp4_plays(made: Film, tmp_path: Path) -> None:
    path = tmp_path / "episode.mp4"
    mp4(made, path)
    with av.open(str(path)) as file:
        (stream,) = file.streams.video
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        frames = [frame.to_ndarray(format="rgb24") for frame in file.decode(stream)]
    assert len(frames) == len(made.frames)
    error = np.abs(frames[0].astype(float) - made.frames[0].astype(float)).mean()
    assert error < 8.0
    content = path.read_bytes()
    assert content.index(b"moov") < content.index(b"mdat")


def test_a_webp_moves_and_is_small(made: Film) -> None:
    content = webp(made)
    assert len(content) <= WEBP_BYTES
    with Image.open(io.BytesIO(content)) as picture:
        assert picture.n_frames > 10
        assert picture.size == (320, 240)


def test_a_webp_gives_up_quality_then_frames(made: Film) -> None:
    small = webp(made, limit=len(webp(made)) // 3)
    with Image.open(io.BytesIO(small)) as picture:
        assert 1 < picture.n_frames <= len(made.frames)
    with pytest.raises(ServiceFailed):
        webp(made, limit=100)


def test_a_camera_that_is_not_there_is_named() -> None:
    with pytest.raises(UsageError) as caught:
        film(ExpertPolicy(), SPEC, View(camera="ceiling", visuals=False))
    assert "ceiling" in caught.value.what
