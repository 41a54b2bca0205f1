"""What errors of libraries and of the system mean to the user of our programs.

A file that may not be read and a module that was not installed are no bugs, whoever comes upon
them. Whatever nobody knows is one, and is said to be one: exit status 1, under its traceback.
"""

from __future__ import annotations

import errno
import os
import traceback

from registry.errors import PolicyctlError, ServiceFailed, UsageError

EXTRAS = {
    "mujoco": "sim",
    "openarm_mujoco": "sim",
    "matplotlib": "sim",
    "PIL": "sim",
    "can": "robot",
    "torch": "train",
    "mcap": "sim",
    "av": "sim",
    "gymnasium": "sim",
    "ray": "ray",
    "boto3": "s3",
    "botocore": "s3",
    "huggingface_hub": "hf",
}
"""Which extra brings a module that a command may miss."""

_REFUSALS = {errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO, errno.EMFILE, errno.ENFILE}
_OTHERWISE = {errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP}
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def known_error(error: Exception) -> PolicyctlError | None:
    """The error as people are told it; None where it is a bug."""
    return _missing_extra(error) or _refused_by_system(error)


def bug(error: Exception) -> PolicyctlError:
    """Prints the traceback that a report of it needs."""
    traceback.print_exception(error)
    return PolicyctlError(
        f"this is a bug in policyctl: {type(error).__name__}: {error}",
        hint="please report it with the lines above",
    )


def _missing_extra(error: Exception) -> UsageError | None:
    """What a module that was not installed means to the user; None where no extra brings it."""
    name = (getattr(error, "name", None) or "").partition(".")[0]
    if not isinstance(error, ModuleNotFoundError) or name not in EXTRAS:
        return None
    return UsageError(
        f"this needs the extra '{EXTRAS[name]}'",
        evidence=f"{name} is not installed",
        hint=f"pip install 'policyctl[{EXTRAS[name]}]'",
    )


def _refused_by_system(error: Exception) -> ServiceFailed | None:
    """A file that may not be read, a disk that is full: no bug, whoever came upon it."""
    if not isinstance(error, OSError):
        return None
    if error.errno not in _REFUSALS | _FULL and not (error.filename and error.errno in _OTHERWISE):
        return None
    said = os.strerror(error.errno)
    return ServiceFailed(
        "the system refuses a file" if error.filename else "the output cannot be written",
        evidence=f"{error.filename}: {said}" if error.filename else said,
        hint="free space, then run the same command again" if error.errno in _FULL
        else "see what is there, whose it is and its permissions, then run the command again",
    )  # fmt: skip
