"""Attempts that robots signed: what a snapshot says of them, and whether it is true.

- A robot signs each report with a key that no server has, and names the terms it ran under. So the
  server can neither invent an attempt, nor alter one, nor tell of other versions or another draw.
- A robot numbers its attempts without gaps, so of those up to the last one counted none can be left
  out unseen. (Withheld ones at the end are asked for again by the next report of that robot.)
- A snapshot carries the Merkle root over the signed reports and says which they are; anyone who has
  the ledger and the keyring counts again what they say.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any

from sqlalchemy import Connection, Row, select

from registry.assignments import Assignment, terms_of
from registry.attempts import AttemptReport
from registry.errors import Forged, NotSigned, WrongSigner
from registry.evidence import CanaryEvidence
from registry.gates import CanaryGate
from registry.interleave import side
from registry.ledger.tables import assignments, attempts
from registry.record import counts
from registry.trust.keyring import Keyring
from registry.trust.merkle import root

COLUMNS = (
    "robot", "number", "policy", "version", "side", "generation", "segment", "stratum", "index",
    "outcome",
)  # fmt: skip


def snapshot_of(rows: Sequence[Row[Any]]) -> tuple[str, tuple[tuple[str, str], ...]]:
    """Root and numbers of signed reports, by robot and number; nothing where one is not signed."""
    if not rows or any(row.envelope is None for row in rows):
        return "", ()
    numbers: dict[str, list[int]] = {}
    for row in rows:
        numbers.setdefault(row.robot, []).append(row.number)
    said = tuple((robot, as_ranges(numbers[robot])) for robot in sorted(numbers))
    return root([leaf_of(row.envelope) for row in rows]), said


def leaf_of(envelope: Any) -> bytes:
    """What the root is over: the signed bytes and their signatures."""
    seals = sorted(f"{one['keyid']}:{one['sig']}" for one in envelope["signatures"])
    return ".".join([envelope["payload"], *seals]).encode()


def as_ranges(numbers: Sequence[int]) -> str:
    """Rising numbers as `3-7,9`."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and runs[-1][1] == number - 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)


def from_ranges(text: str) -> list[int]:
    """Raises ValueError for what `as_ranges` did not write."""
    found: list[int] = []
    for run in text.split(","):
        first, _, last = run.partition("-")
        found += range(int(first), int(last or first) + 1)
    if as_ranges(found) != text:
        raise ValueError(f"not rising ranges: {text!r}")
    return found


def report_of(row: Row[Any]) -> AttemptReport:
    """The stored attempt with its seal."""
    return replace(AttemptReport.from_json(row.report), envelope=row.envelope)


def objection(report: AttemptReport, document: Assignment, terms: str) -> str:
    """Why an attempt did not run what its assignment and its index name; "" where it did."""
    if report.terms and report.terms != terms:
        return f"it ran under other terms than generation {report.generation} has"
    if report.policy != document.policy:
        return f"generation {report.generation} is of {document.policy}"
    if report.side == "only":
        if report.version != document.baseline:
            return f"it ran v{report.version} outside the comparison"
        return ""
    if document.candidate is None or report.segment != document.segment:
        return f"segment {report.segment} is not what it was assigned"
    drawn = side(document.salt, report.robot, report.stratum, report.index, document.fraction)
    number = document.candidate if drawn == "candidate" else document.baseline
    if (report.side, report.version) != (drawn, number):
        return (
            f"index {report.index} of {report.stratum} draws {drawn} (v{number}), "
            f"it ran {report.side} (v{report.version})"
        )
    return ""


def check_signed(connection: Connection, keyring: Keyring, rows: Sequence[Row[Any]]) -> None:
    """Every row is what its robot signed, under terms that the record still has.

    Raises NotSigned, WrongSigner or Forged at the first that is not.
    """
    for row, report, document, terms in _told(connection, rows):
        _check_one(keyring, row, report, document, terms)


def recount(connection: Connection, keyring: Keyring, evidence: CanaryEvidence, gate: CanaryGate) \
        -> list[str]:  # fmt: skip
    """What is wrong with a canary's evidence, counted again from the signed reports it names."""
    what = f"canary evidence of {evidence.rollout}"
    if not evidence.attempts_root:
        return [f"{what}: its attempts are not signed"]
    try:
        listed = {robot: from_ranges(text) for robot, text in evidence.reports}
    except ValueError as wrong:
        return [f"{what}: {wrong}"]
    rows, problems = _listed_rows(connection, listed)
    if problems:
        return [f"{what}: {problem}" for problem in problems]
    if (found := root([leaf_of(row.envelope) for row in rows])) != evidence.attempts_root:
        return [f"{what}: the reports make {found}, it says {evidence.attempts_root}"]
    documents: dict[tuple[str, int], Assignment] = {}
    for row, report, document, terms in _told(connection, rows):
        try:
            found_document = _check_one(keyring, row, report, document, terms)
        except (NotSigned, WrongSigner, Forged) as error:
            return [f"{what}: {error.what} ({error.evidence})"]
        documents[report.robot, report.generation] = found_document
    return [
        f"{what}: {problem}"
        for problem in (
            *_terms_problems(evidence, documents),
            *_left_out(connection, listed, {one.salt for one in documents.values()}),
            *_count_problems(evidence, gate, rows, documents),
        )
    ]


def _listed_rows(
    connection: Connection, listed: dict[str, list[int]]
) -> tuple[list[Row[Any]], list[str]]:
    rows: list[Row[Any]] = []
    problems: list[str] = []
    for robot in sorted(listed):
        found = {
            row.number: row
            for row in connection.execute(select(attempts).where(attempts.c.robot == robot))
        }
        for number in listed[robot]:
            row = found.get(number)
            if row is None or row.envelope is None:
                gone = "gone" if row is None else "not signed"
                problems.append(f"attempt {number} of {robot} is {gone}")
            else:
                rows.append(row)
    return rows, problems


def _told(
    connection: Connection, rows: Sequence[Row[Any]]
) -> Iterator[tuple[Row[Any], AttemptReport, Assignment | None, str]]:
    """Each row with its report and the assignment that it names."""
    held: dict[tuple[str, int], tuple[Assignment | None, str]] = {}
    for row in rows:
        report = report_of(row)
        key = (report.robot, report.generation)
        if key not in held:
            document = connection.execute(
                select(assignments.c.document).where(
                    assignments.c.robot == key[0], assignments.c.generation == key[1]
                )
            ).scalar()
            held[key] = (
                (None, "") if document is None
                else (Assignment.from_json(document), terms_of(document))
            )  # fmt: skip
        yield row, report, *held[key]


def _check_one(
    keyring: Keyring, row: Row[Any], report: AttemptReport, document: Assignment | None, terms: str
) -> Assignment:
    from registry.trust.documents import check_attempt

    check_attempt(report, keyring)
    what = f"attempt {row.number} of {row.robot}"
    columns = {name: row._mapping[name] for name in COLUMNS}
    signed = {name: getattr(report, name) for name in COLUMNS}
    if columns != signed:
        differs = [name for name in COLUMNS if columns[name] != signed[name]]
        raise Forged(
            f"{what} is filed as something else than its robot signed",
            evidence=", ".join(f"{n}: {columns[n]}, signed {signed[n]}" for n in differs),
        )
    if document is None:
        raise Forged(f"{what} names an assignment that is gone", evidence=f"{report.generation}")
    why = objection(report, document, terms) or ("" if report.terms else "it names no terms")
    if why:
        raise Forged(f"{what} did not run what the record says it was assigned", evidence=why)
    return document


def _terms_problems(
    evidence: CanaryEvidence, documents: dict[tuple[str, int], Assignment]
) -> Iterator[str]:
    """One draw per segment, over the versions that the evidence is about."""
    draws: dict[int, set[tuple[str, str]]] = {}
    for document in documents.values():
        draws.setdefault(document.segment, set()).add((document.salt, document.ratio))
        number = document.candidate
        if number is None or document.digests.get(number) != evidence.subject.digest:
            yield f"generation {document.generation} of {document.robot} runs another candidate"
        if document.baseline != evidence.baseline:
            yield f"generation {document.generation} of {document.robot} has another baseline"
    for segment, found in draws.items():
        if len(found) > 1:
            yield f"segment {segment} was drawn in {len(found)} ways"


def _left_out(
    connection: Connection, listed: dict[str, list[int]], salts: set[str]
) -> Iterator[str]:
    """Attempts before the last one counted that are gone, or belong here and were not counted."""
    for robot, numbers in listed.items():
        query = select(attempts).where(attempts.c.robot == robot, attempts.c.number <= max(numbers))
        rows = {row.number: row for row in connection.execute(query.order_by(attempts.c.number))}
        for number in range(1, max(numbers) + 1):
            if number not in rows:
                yield f"attempt {number} of {robot} is gone"
        rest = [row for number, row in rows.items() if number not in set(numbers)]
        for _, report, document, _ in _told(connection, rest):
            if document is not None and report.side != "only" and document.salt in salts:
                yield f"attempt {report.number} of {robot} belongs to it and was left out"


def _count_problems(
    evidence: CanaryEvidence,
    gate: CanaryGate,
    rows: Sequence[Row[Any]],
    documents: dict[tuple[str, int], Assignment],
) -> Iterator[str]:
    reports = [report_of(row) for row in rows]
    counted = [
        counts.Counted(
            one.robot, one.number, one.side, one.segment, one.stratum, one.index, one.outcome,
            row.received_at,
        )
        for one, row in zip(reports, rows, strict=True)
    ]  # fmt: skip
    places = [(one.segment, one.name, one.index) for one in counted]
    if len(set(places)) != len(places):
        yield "a place of a block was drawn twice"
    ratios = {one.segment: Fraction(one.ratio) for one in documents.values()}
    salts = {one.segment: one.salt for one in documents.values()}
    segments = counts.segments(counted, ratios)
    if segments != evidence.segments:
        total = sum(len(segment.strata) for segment in segments)
        yield (
            f"the reports do not give its counts: {_shown(segments)} in {total} strata, "
            f"it says {_shown(evidence.segments)}"
        )
    events = sum(
        event in gate.class_a
        for one in reports
        if one.side == "candidate"
        for event in one.safety_events
    )
    if events != evidence.class_a_events:
        yield f"{events} class A events were reported, it says {evidence.class_a_events}"
    passed_over = counts.overtaken(counted, ratios, salts)
    if passed_over > evidence.outstanding:
        yield f"{passed_over} attempts were passed over, it says {evidence.outstanding}"


def _shown(segments: Any) -> str:
    return "; ".join(
        f"segment {one.index}: candidate {one.candidate.success} of {one.candidate.n}, "
        f"baseline {one.baseline.success} of {one.baseline.n}"
        for one in segments
    )
