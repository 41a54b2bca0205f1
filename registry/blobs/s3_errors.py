"""What an S3 server's refusals mean to the user.

Whatever boto3 raises becomes one of ours: NotFound (no such blob or bucket), NotAllowed (whose
credentials), ServiceFailed (not reached, not answering, full, slow, a clock that is wrong).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
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


@contextmanager
def s3_errors(store: str, digest: str = "") -> Iterator[None]:
    """Turns what the block meets at the store into our errors."""
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
    except ClientError as error:
        raise _refused(store, digest, error) from error
    except (BotoCoreError, ConnectionError) as error:
        raise _failed(store, error) from error
    except Exception as error:
        from boto3.exceptions import Boto3Error

        if isinstance(error, Boto3Error):
            raise _failed(store, error) from error
        raise


def code_of(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def is_missing(error: ClientError) -> bool:
    return code_of(error) in {"404", "NoSuchKey", "NotFound"}


def _refused(store: str, digest: str, error: ClientError) -> PolicyctlError:
    code = code_of(error)
    said = f"{store}: {code} {error.response.get('Error', {}).get('Message', '')}".rstrip()
    if code == "NoSuchBucket":
        return NotFound(
            "there is no such bucket",
            evidence=said,
            hint="make it, or mend `store:` in registry.yaml",
        )
    if is_missing(error):
        return NotFound(
            "a stored file is missing",
            evidence=f"{digest} is not in {store}",
            hint="register the same files again, or heal with `policyctl verify --all`",
        )
    if code in _CREDENTIALS:
        return NotAllowed(
            "the store refuses these credentials",
            evidence=said,
            hint="AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile or a role of that bucket",
        )
    if code in _CLOCK:
        return ServiceFailed(
            "the store says that this machine's clock is wrong: nothing was changed",
            evidence=said,
            hint="set the clock, then run the same command again",
        )
    if code in _FULL:
        return ServiceFailed(
            "the store is full: nothing was changed",
            evidence=said,
            hint="make room or raise the quota, then run the same command again",
        )
    return ServiceFailed(
        "the store failed: nothing was changed",
        evidence=said,
        hint="run the same command again; what was sent is not sent twice",
    )


def _failed(store: str, error: Exception) -> PolicyctlError:
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
            "there are no credentials for the store",
            evidence=said,
            hint="set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or name a profile",
        )
    return ServiceFailed(
        "the store was not reached: nothing was changed",
        evidence=said,
        hint="check the network and `store:` in registry.yaml; what was sent is not sent twice",
    )
