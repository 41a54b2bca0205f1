"""JUnit of the simulation gate in the shape that GitHub's, GitLab's and Jenkins' readers take."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from dataclasses import replace

import pytest
from sim_rows import Run, play, report_on

from ci.report.sim.files import as_junit
from registry.grid_verdict import weak_cells
from registry.verdicts import Outcome

KNOWN = {
    "testsuites": {"name", "tests", "failures", "errors", "skipped", "time"},
    "testsuite": {"name", "tests", "failures", "errors", "skipped", "time"},
    "properties": set(),
    "property": {"name", "value"},
    "testcase": {"classname", "name", "time"},
    "failure": {"message", "type"},
    "error": {"message", "type"},
    "skipped": {"message"},
    "system-out": set(),
}


def junit(run: Run) -> ET.Element:
    return ET.fromstring(as_junit(report_on(run, seconds=30.0)))


def counts(element: ET.Element) -> dict[str, int]:
    return {name: int(element.attrib[name]) for name in ("tests", "failures", "errors", "skipped")}


def check_shape(root: ET.Element) -> None:
    """Only known elements and attributes; the counts are those of the cases."""
    for element in root.iter():
        assert set(element.attrib) == KNOWN[element.tag], element.tag
    for suite in root:
        assert suite.tag == "testsuite"
        assert counts(suite) == {
            "tests": len(suite.findall("testcase")),
            "failures": len(suite.findall("testcase/failure")),
            "errors": len(suite.findall("testcase/error")),
            "skipped": len(suite.findall("testcase/skipped")),
        }
    for name, total in counts(root).items():
        assert total == sum(counts(suite)[name] for suite in root)
    names = [(case.get("classname"), case.get("name")) for case in root.iter("testcase")]
    assert len(set(names)) == len(names)


def verdict_case(root: ET.Element) -> ET.Element:
    return next(case for case in root.iter("testcase") if case.get("name") == "verdict")


@pytest.mark.slow
def test_a_passed_gate_has_a_case_a_cell_and_nothing_red() -> None:
    root = junit(play(rate=0.96))
    check_shape(root)
    assert counts(root) == {"tests": 101, "failures": 0, "errors": 0, "skipped": 0}
    spent = sum(float(case.attrib["time"]) for case in root.iter("testcase"))
    assert spent == pytest.approx(30.0, abs=0.1)


@pytest.mark.slow
def test_a_failed_gate_fails_and_names_the_cells_that_are_low_beyond_chance() -> None:
    run = play(rate=0.8)
    root = junit(run)
    check_shape(root)
    failure = verdict_case(root).find("failure")
    assert failure is not None
    assert failure.get("message") == run.verdict.reason
    red = [case for case in root.iter("testcase") if case.find("failure") is not None]
    assert 1 < len(red) < 40
    assert all("friction=0.3" in case.attrib["name"] for case in red[1:6])
    text = red[1].findtext("failure")
    assert text is not None
    assert "policyctl replay box-grasp:" in text


def test_an_undecided_gate_is_an_error_and_cells_without_episodes_are_skipped() -> None:
    run = play(rate=0.96, full=False, stop_after=40)
    root = junit(run)
    check_shape(root)
    assert verdict_case(root).find("error") is not None
    drawn = len({row.cell for row in run.rows})
    assert counts(root) == {"tests": 101, "failures": 0, "errors": 1, "skipped": 100 - drawn}


@pytest.mark.slow
def test_a_cell_below_the_floor_fails_though_the_mean_passes() -> None:
    run = play(rate=0.93, floor=0.85)
    assert run.verdict.outcome is Outcome.FAIL
    weak = [run.evidence.cells[i][0] for i in weak_cells(run.gate, run.evidence)]
    assert 0 < len(weak) < 10
    root = junit(run)
    check_shape(root)
    red = [case for case in root.iter("testcase") if case.find("failure") is not None]
    assert sorted(case.attrib["name"] for case in red) == sorted(["verdict", *weak])
    messages = [failure.attrib["message"] for failure in root.iterfind(".//failure")]
    assert all("proven below the floor 0.85" in message for message in messages[1:])


def test_a_gate_of_ranges_only_is_one_nominal_cell() -> None:
    root = junit(play(axes={}, episodes_per_cell=60))
    check_shape(root)
    assert [case.get("name") for case in root.iter("testcase")] == ["verdict", "nominal"]


def test_characters_that_xml_cannot_carry_do_not_break_it() -> None:
    run = play(axes={"mass": (1.0, 2.0)}, episodes_per_cell=10)
    root = junit(replace(run, verdict=replace(run.verdict, reason="a\x00b <&> \x1b[31m")))
    check_shape(root)
    (told,) = verdict_case(root)
    assert (told.text or "").startswith("a\ufffdb <&> \ufffd[31m\n")
