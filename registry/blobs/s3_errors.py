"""What an S3 server's refusals mean to the user.

Whatever boto3 raises becomes one of ours: NotFound (no such blob or bucket), NotAllowed (whose
credentials), ServiceFailed (not reached, not answering, full, slow, a clock that is wrong). What
helps depends on what the bucket is here: the home's store, or where a checkpoint comes from.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from registry.errors import NotAllowed, NotFound, PolicyctlError, ServiceFailed

if TYPE_CHECKING:
    from botocore.exceptions import ClientError

_CREDENTIALS = {
    "403", "AccessDenied", "AllAccessDisabled", "ExpiredToken", "InvalidAccessKeyId",
    "InvalidToken", "SignatureDoesNotMatch", "Forbidden",
}  # fmt: skip
_CLOCK = {"RequestTimeTooSkewed", "RequestExpired"}
_FULL = {"QuotaExceeded", "InsufficientStorage", "507", "EntityTooLarge", "XMinioStorageFull"}


@dataclass(frozen=True)
class BucketUse:
    """What a bucket is to whoever typed the command, and what helps where it fails."""

    name: str
    missing: str
    rename: str
    bring_back: str
    reach: str
    again: str


STORE = BucketUse(
    "store",
    missing="a stored file is missing",
    rename="make it, or mend `store:` in registry.yaml",
    bring_back="register the same files again, or heal with `policyctl verify --all`",
    reach="check the network and `store:` in registry.yaml; what was sent is not sent twice",
    again="run the same command again; what was sent is not sent twice",
)
SOURCE = BucketUse(
    "source",
    missing="a file of the checkpoint is missing",
    rename="check the bucket's name, and ?endpoint=URL for a server that is not AWS's",
    bring_back="run the same command again when whatever writes the checkpoint has ended",
    reach="check the network, and ?endpoint=URL of the source; what was fetched is kept",
    again="run the same command again; what was fetched is kept",
)


@contextmanager
def s3_errors(store: str, digest: str = "", use: BucketUse = STORE) -> Iterator[None]:
    """Turns what the block meets at the bucket into our errors."""
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
    except ClientError as error:
        raise _refused(store, digest, error, use) from error
    except (BotoCoreError, ConnectionError) as error:
        raise _failed(store, error, use) from error
    except Exception as error:
        from boto3.exceptions import Boto3Error

        if isinstance(error, Boto3Error):
            raise _failed(store, error, use) from error
        raise


def code_of(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def is_missing(error: ClientError) -> bool:
    return code_of(error) in {"404", "NoSuchKey", "NotFound"}


def _refused(store: str, digest: str, error: ClientError, use: BucketUse) -> PolicyctlError:
    code = code_of(error)
    said = f"{store}: {code} {error.response.get('Error', {}).get('Message', '')}".rstrip()
    if code == "NoSuchBucket":
        return NotFound("there is no such bucket", evidence=said, hint=use.rename)
    if is_missing(error):
        return NotFound(use.missing, evidence=f"{digest} is not in {store}", hint=use.bring_back)
    if code in _CREDENTIALS:
        return NotAllowed(
            f"the {use.name} refuses these credentials",
            evidence=said,
            hint="AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile or a role of that bucket",
        )
    if code in _CLOCK:
        return ServiceFailed(
            f"the {use.name} says that this machine's clock is wrong: nothing was changed",
            evidence=said,
            hint="set the clock, then run the same command again",
        )
    if code in _FULL:
        return ServiceFailed(
            f"the {use.name} is full: nothing was changed",
            evidence=said,
            hint="make room or raise the quota, then run the same command again",
        )
    return ServiceFailed(
        f"the {use.name} failed: nothing was changed", evidence=said, hint=use.again
    )


def _failed(store: str, error: Exception, use: BucketUse) -> PolicyctlError:
    from botocore.exceptions import (
        NoCredentialsError,
        PartialCredentialsError,
        ProfileNotFound,
        TokenRetrievalError,
    )

    said = f"{store}: {error}"
    no_account = (NoCredentialsError, PartialCredentialsError, ProfileNotFound, TokenRetrievalError)
    if isinstance(error, no_account):
        return NotAllowed(
            f"there are no credentials for the {use.name}",
            evidence=said,
            hint="set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or name a profile",
        )
    return ServiceFailed(
        f"the {use.name} was not reached: nothing was changed", evidence=said, hint=use.reach
    )
