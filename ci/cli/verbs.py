"""The verbs of `policyctl`: where each is, what it does, and how others speak of it."""

from __future__ import annotations

import re
import shlex

ROOT: dict[str, tuple[str, str]] = {
    "init": ("ci.cli.init", "Make a registry home here."),
    "register": ("ci.cli.register", "Give a checkpoint a version."),
    "list": ("ci.cli.list", "Versions and how far each has climbed."),
    "show": ("ci.cli.show", "One version: files, contract, provenance, verdicts."),
    "diff": ("ci.cli.diff", "What changed from one version to another."),
    "tag": ("ci.cli.tag", "Give a version a name of your own."),
    "verify": ("ci.cli.verify", "Re-hash files, heal them, recompute verdicts."),
    "export": ("ci.cli.export", "One version in one file, for a site without network."),
    "import": ("ci.cli.import_", "Register the version in such a file."),
    "gc": ("ci.cli.gc", "Remove stored files that nothing needs."),
    "gate": ("ci.cli.gate", "Try a version: in simulation, then on the lab's robot."),
    "promote": ("ci.cli.promote", "Take a version one rung up."),
    "approve": ("ci.cli.approve", "Sign that robots may run a version."),
    "status": ("ci.cli.status", "What runs where and what is under way."),
    "pause": ("ci.cli.pause", "Expose no further robots to the candidate."),
    "resume": ("ci.cli.resume", "Go on with a paused rollout."),
    "abort": ("ci.cli.abort", "End a rollout; every robot returns to the baseline."),
    "rollback": ("ci.cli.rollback", "Return every robot to the previous version."),
    "history": ("ci.cli.history", "Who changed what, when and why."),
    "trust": ("ci.cli.trust", "Whose signatures robots believe: set up, harden, rotate, recover."),
    "audit": ("ci.cli.audit", "Whether the record of who changed what is whole."),
    "report": ("ci.cli.report", "A self-contained HTML report of a policy's versions."),
    "compare": ("ci.cli.compare", "Compare versions in simulation on the same scenes."),
    "replay": ("ci.cli.replay", "Play a simulated episode again, bit for bit."),
    "train": ("ci.cli.train", "Train a checkpoint from a recipe."),
    "sysid": ("ci.cli.sysid", "Fit the scene to a logged motion of a real arm."),
    "arm": ("ci.cli.arm", "Commission an arm, or try a version on it once."),
    "twin": ("ci.cli.twin", "Run an emulated arm as a process, and break it on purpose."),
    "fleet": ("ci.cli.fleet", "The robots and what each runs."),
    "robot": ("ci.cli.robot", "Enrol a robot."),
    "station": ("ci.cli.station", "Check a lab station, or lease it."),
    "server": ("ci.cli.server", "Run the controller of this home's rollouts."),
    "doctor": ("ci.cli.doctor", "What this machine can and cannot do, and why."),
    "demo": ("ci.cli.demo", "Watch four policies travel the whole road on this machine."),
    "completion": ("ci.cli.completion", "Print the shell completion script."),
}

_COMMAND = re.compile(rf"\bpolicyctl (?=(?:{'|'.join(ROOT)})\b)(?![a-z ]*--help)")


def with_home(text: str, home: str) -> str:
    """A hint whose commands speak of the home that was named on this command line."""
    if not home:
        return text
    named = f"policyctl --home {shlex.quote(home)} "
    return _COMMAND.sub(lambda _: named, text)
