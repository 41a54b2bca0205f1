"""Envelopes: whose they are, what they hold, and that nothing beside them is believed."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from in_toto_attestation.v1.statement import Statement
from trusted import Keys

from registry.errors import Forged, NotSigned, WrongSigner
from registry.evidence import Subject, TrialEvidence
from registry.gates import TrialGate
from registry.home import Home
from registry.trust.sealing import ASSIGNMENT, IN_TOTO, open_sealed, seal
from registry.trust.statements import read_registration, read_verdict, registration, verdict
from registry.verdicts import judge
from registry.versions import Provenance, digest_bytes

DIGEST = digest_bytes(b"a manifest")
PAYLOAD = registration("box-grasp", DIGEST, Provenance(run="run-7"))


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    return Keys(Home(tmp_path_factory.mktemp("home")))


def opened(keys: Keys, envelope: Any, kind: str = IN_TOTO, role: str = "publisher") -> Any:
    return open_sealed(
        envelope, kind, keys.keyring.of_role(role), what="it", needs=role, keyring=keys.keyring
    )


def test_what_was_sealed_is_opened(keys: Keys) -> None:
    said, keyid = opened(keys, seal(PAYLOAD, IN_TOTO, keys.signer("publisher")))
    assert keyid == keys.public["publisher"].keyid
    found = read_registration(said)
    assert (found.policy, found.digest) == ("box-grasp", DIGEST)
    assert found.provenance["run"] == "run-7"


def test_a_statement_is_one_by_the_in_toto_projects_own_library(keys: Keys) -> None:
    said = json.loads(PAYLOAD)
    assert said["_type"] == "https://in-toto.io/Statement/v1"
    subjects = Statement([], said["predicateType"], said["predicate"]).pb
    assert subjects.predicate_type == "policyctl:registration/v1"
    with pytest.raises(Forged, match="no policyctl:registration/v1"):
        read_registration({**said, "subject": []})
    with pytest.raises(Forged):
        read_registration({**said, "_type": "https://in-toto.io/Statement/v0.1"})
    with pytest.raises(Forged):
        read_registration({**said, "subject": [*said["subject"], *said["subject"]]})
    with pytest.raises(Forged):
        read_verdict(said)


def test_a_verdicts_statement_carries_the_verdict_exactly() -> None:
    gate = TrialGate("hil/lift.yaml")
    subject = Subject("box-grasp", 3, DIGEST)
    evidence = TrialEvidence(
        subject, gate.digest, "openarm-v2-right", "e", "j", digest_bytes(b""), 20, 1
    )
    said = judge(gate, evidence)
    payload = verdict(subject, gate, evidence, said, {"report": DIGEST})
    read = read_verdict(json.loads(payload))
    assert read.verdict == said
    assert read.subject == subject
    assert (read.gate_digest, read.evidence_digest) == (gate.digest, evidence.digest)
    assert read.artifacts == {"report": DIGEST}


def test_no_seal_a_wrong_role_a_stranger_and_a_broken_seal_are_four_things(
    keys: Keys, tmp_path: Path
) -> None:
    with pytest.raises(NotSigned) as bare:
        opened(keys, None)
    assert bare.value.exit_status == 5
    with pytest.raises(WrongSigner, match="not signed by a publisher") as wrong:
        opened(keys, seal(PAYLOAD, IN_TOTO, keys.signer("runner")))
    assert wrong.value.exit_status == 7
    assert "is of runner" in wrong.value.evidence
    stranger = Keys(Home(tmp_path), ("publisher",))
    with pytest.raises(WrongSigner) as unknown:
        opened(keys, seal(PAYLOAD, IN_TOTO, stranger.signer("publisher")))
    assert "not in the keyring" in unknown.value.evidence
    broken = seal(PAYLOAD, IN_TOTO, keys.signer("publisher"))
    other = seal(PAYLOAD + b" ", IN_TOTO, keys.signer("publisher"))
    broken["signatures"] = other["signatures"]
    with pytest.raises(Forged, match="was not signed by whom it names") as forged:
        opened(keys, broken)
    assert forged.value.exit_status == 9


def test_a_strangers_signature_under_a_publishers_name_is_forged(
    keys: Keys, tmp_path: Path
) -> None:
    stranger = Keys(Home(tmp_path), ("publisher",))
    envelope = seal(PAYLOAD, IN_TOTO, stranger.signer("publisher"))
    envelope["signatures"][0]["keyid"] = keys.public["publisher"].keyid
    with pytest.raises(Forged):
        opened(keys, envelope)


def test_a_seal_under_one_kind_of_document_is_none_under_another(keys: Keys) -> None:
    envelope = seal(PAYLOAD, ASSIGNMENT, keys.signer("publisher"))
    with pytest.raises(Forged, match="kind of document"):
        opened(keys, envelope)
    envelope["payloadType"] = IN_TOTO
    with pytest.raises(Forged, match="was not signed"):
        opened(keys, envelope)


@given(st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
def test_an_altered_envelope_never_opens(keys: Keys, data: st.DataObject) -> None:
    envelope = seal(PAYLOAD, IN_TOTO, keys.signer("publisher"))
    bad = copy.deepcopy(envelope)
    name = data.draw(st.sampled_from(["payload", "payloadType", "sig", "keyid"]))
    holder = bad if name.startswith("payload") else bad["signatures"][0]
    text = holder[name]
    at = data.draw(st.integers(0, len(text.rstrip("=")) - 1))
    letter = data.draw(st.sampled_from("ABab01/é "))
    holder[name] = text[:at] + letter + text[at + 1 :]
    try:
        said, _ = opened(keys, bad)
    except (Forged, WrongSigner):
        return
    assert said == json.loads(PAYLOAD)  # base64 that spells the same bytes


@pytest.mark.parametrize(
    "junk", [{}, {"payload": 1}, {"payload": "", "payloadType": IN_TOTO, "signatures": None}, []]
)
def test_what_is_no_envelope_is_forged(keys: Keys, junk: Any) -> None:
    with pytest.raises(Forged):
        opened(keys, junk)


def test_opening_changes_nothing(keys: Keys) -> None:
    envelope = seal(PAYLOAD, IN_TOTO, keys.signer("publisher"))
    before = copy.deepcopy(envelope)
    opened(keys, envelope)
    opened(keys, envelope)
    assert envelope == before
