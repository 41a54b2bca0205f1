"""Links out of provenance: made where the address is known, and nowhere else."""

import pytest

from registry.links import link_of, links_of
from registry.versions import Provenance


@pytest.mark.parametrize(
    ("text", "link"),
    [
        ("https://wandb.ai/team/box/runs/7", "https://wandb.ai/team/box/runs/7"),
        ("hf://team/box-grasp@0a1b", "https://huggingface.co/team/box-grasp/tree/0a1b"),
        ("hf://team/box-grasp", "https://huggingface.co/team/box-grasp"),
        ("hf://datasets/team/boxes@v2", "https://huggingface.co/datasets/team/boxes/tree/v2"),
        ("wandb://team/box/7ab", "https://wandb.ai/team/box/runs/7ab"),
        (
            "mlflow://ml.team.example:5000/3/0f9a",
            "https://ml.team.example:5000/#/experiments/3/runs/0f9a",
        ),
        ("github://team/robots@0a1b2c", "https://github.com/team/robots/commit/0a1b2c"),
        ("hf://datasets/team@v2", None),
        ("wandb://team/7ab", None),
        ("s3://bucket/prefix", None),
        ("run-7", None),
        ("javascript://alert(1)", None),
        ("https://", None),
        ("https://a b", None),
        ("", None),
    ],
)
def test_a_field_leads_where_its_scheme_says(text: str, link: str | None) -> None:
    assert link_of(text) == link


def test_a_record_has_the_links_of_its_fields() -> None:
    origin = Provenance(
        commit="0a1b", dataset="hf://datasets/team/boxes@v2", run="wandb://team/box/7ab", note="x"
    )
    assert links_of(origin) == {
        "dataset": "https://huggingface.co/datasets/team/boxes/tree/v2",
        "run": "https://wandb.ai/team/box/runs/7ab",
    }


def test_what_an_older_program_recorded_unseen_leads_nowhere() -> None:
    origin = Provenance(commit=5, run=["x"], source="hf://team/grasp")  # type: ignore[arg-type]
    assert set(links_of(origin)) == {"source"}
