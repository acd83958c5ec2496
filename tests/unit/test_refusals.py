"""What each provider means by a status, and what to do then: every refusal says both."""

import pytest

from meowcat.core.retry import Class
from meowcat.core.retry import classify as class_of
from meowcat.protocols import presigned_replies
from meowcat.protocols.azure import address as azure
from meowcat.protocols.azure import replies as azure_replies
from meowcat.protocols.azure.settings import AzureBlob
from meowcat.protocols.oss import address as oss
from meowcat.protocols.oss import replies as oss_replies
from meowcat.protocols.s3 import address as s3
from meowcat.protocols.s3 import replies as s3_replies
from meowcat.protocols.wire import Reply


def of_s3(reply):
    address = s3.Address("https://host", "us-east-1", "path", "bucket", "key")
    return s3_replies.classify(reply, "the commit of", address, "prod", 0)


def of_oss(reply):
    endpoint = "https://oss-cn-hangzhou.aliyuncs.com"
    address = oss.Address(endpoint, "cn-hangzhou", "virtual", "bucket", "key")
    return oss_replies.classify(reply, "the commit of", address, "prod", 0)


def of_azure(reply):
    _, spec = azure.resolve("azure://container/blob", AzureBlob(account="account").spec())
    return azure_replies.classify(reply, "the commit of", azure.address_of(spec), "prod", 0)


def of_a_plan(reply):
    return presigned_replies.classify(reply, "the completion", 0)


PROVIDERS = {"s3": of_s3, "oss": of_oss, "azure": of_azure, "plan": of_a_plan}

MEANS = {
    403: {
        "s3": [
            ("", "is wrong, or may not do this", "check its secret, and grant it s3:PutObject"),
            ("AccessDenied", "may not do this", "grant it s3:PutObject"),
            ("InvalidAccessKeyId", "no such key", "check credential 'prod'"),
            ("SignatureDoesNotMatch", "credential 'prod' is wrong", "secret of"),
            ("RequestTimeTooSkewed", "clocks", "set this machine's"),
            ("InvalidObjectState", "archived", "have it restored"),
            ("ExpiredToken", "has run out", "register a provider"),
        ],
        "oss": [
            ("", "may not do this", "grant it oss:PutObject"),
            ("AccessDenied", "may not do this", "grant it oss:PutObject"),
            ("InvalidAccessKeyId", "no such key", "check credential 'prod'"),
            ("SignatureDoesNotMatch", "credential 'prod' is wrong", "secret of"),
            ("RequestTimeTooSkewed", "clocks", "set this machine's"),
            ("SecurityTokenExpired", "has run out", "register a provider"),
            ("SecondLevelDomainForbidden", "no bucket in the path", "set AliyunOSS(style='virtual')"),
            ("UserDisable", "disabled", "look for bills"),
        ],
        "azure": [
            ("", "is wrong, or may not do this", "check that it is whole and one of the account"),
            ("AuthenticationFailed", "does not take the signature", "check that credential 'prod' is whole"),
            ("AuthorizationPermissionMismatch", "may not do this", "needs r to download; cw to upload"),
            ("AuthorizationFailure", "may not do this from here", "check what it permits"),
            ("InsufficientAccountPermissions", "may not do this", "Storage Blob Data Contributor"),
            ("AuthorizationServiceMismatch", "for another service", "needs the service b"),
            ("KeyBasedAuthenticationNotPermitted", "takes no keys", "register a BearerToken"),
        ],
        "plan": [
            ("", "forbids the request", "the signature may be wrong"),
            ("AccessDenied", "does not allow", "look at what the back end signs"),
            ("SignatureDoesNotMatch", "not the one that was signed", "headers of the plan must be"),
        ],
    },
    404: {
        "s3": [
            ("", "no such object", "check its key"),
            ("NoSuchKey", "no such object", "check its key"),
            ("NoSuchBucket", "no bucket 'bucket' at https://host", "check its name"),
            ("NoSuchVersion", "no such version", "check version_id"),
        ],
        "oss": [
            ("", "no such object", "check its key"),
            ("NoSuchBucket", "no bucket 'bucket'", "check its name, the endpoint and the region"),
            ("NoSuchVersion", "no such version", "check version_id"),
        ],
        "azure": [
            ("", "no such blob", "check its name, snapshot and version_id"),
            ("BlobNotFound", "no such blob", "check its name"),
            ("ContainerNotFound", "no container 'container'", "check its name and the account"),
            ("ResourceNotFound", "no such account, container or blob", "check their names"),
        ],
        "plan": [
            ("", "nothing at this URL", "look at what the back end signs"),
            ("NoSuchBucket", "no such bucket", "look at what the back end signs"),
            ("NoSuchUpload", "has not the upload", "sent again"),
        ],
    },
    409: {
        "s3": [
            ("", "under way", "tried again later"),
            ("ConditionalRequestConflict", "another upload to it is under way", "tried again later"),
            ("OperationAborted", "another operation", "tried again later"),
            ("RestoreAlreadyInProgress", "archived", "have it restored"),
        ],
        "oss": [
            ("", "nothing was replaced", "name another key"),
            ("FileAlreadyExists", "nothing was replaced", "name another key, or leave that out"),
            ("FileImmutable", "a retention policy", "name another key"),
            ("OperationAborted", "another operation", "tried again later"),
        ],
        "azure": [
            ("", "nothing was replaced", "set AzureBlob(overwrite='replace'), or name another"),
            ("BlobAlreadyExists", "nothing was replaced", "set AzureBlob(overwrite='replace')"),
            ("LeaseIdMismatchWithBlobOperation", "a lease", "give its id with the header x-ms-lease-id"),
            ("BlobArchived", "archived", "set it to tier Hot or Cool"),
            ("BlobImmutableDueToPolicy", "nothing was replaced", "name another blob"),
        ],
        "plan": [("", "must not be replaced", "look at what is there")],
    },
    412: {
        "s3": [("", "nothing was replaced", "leave the condition out")],
        "oss": [("", "nothing was done", "leave the condition out")],
        "azure": [
            ("", "nothing was replaced", "see what is there, and retry"),
            ("ConditionNotMet", "written or deleted it meanwhile", "see what is there, and retry"),
            ("LeaseIdMissing", "a lease", "give its id with the header x-ms-lease-id"),
            ("LeaseLost", "has ended", "take a new one"),
        ],
        "plan": [("", "does not hold", "look at what is there")],
    },
    416: {
        "s3": [("", "shorter than what was asked for", "begin again")],
        "oss": [("", "shorter than what was asked for", "begin again")],
        "azure": [("", "shorter than what was asked for", "begin again")],
        "plan": [("", "shorter than what was asked for", "begin again")],
    },
    429: {
        "s3": [("", "busy", "tried again later")],
        "oss": [("", "busy, or a limit", "tried again later")],
        "azure": [("", "busy", "tried again later")],
        "plan": [("", "too many requests", "tried again later")],
    },
    503: {
        "s3": [("", "busy", "tried again later"), ("SlowDown", "busy", "tried again later")],
        "oss": [
            ("", "busy, or a limit", "tried again later"),
            ("QpsLimitExceeded", "busy, or a limit", "tried again later"),
            ("UploadTrafficRateLimitExceeded", "busy, or a limit", "tried again later"),
        ],
        "azure": [("", "busy", "tried again later"), ("ServerBusy", "busy", "tried again later")],
        "plan": [("", "not available", "tried again later")],
    },
}
"""By status and provider: an error's code ("" = a reply that has none, such as one to a HEAD), what it means,
and what is to be done about it."""

ROWS = [
    (status, provider, *row)
    for status, providers in MEANS.items()
    for provider, rows in providers.items()
    for row in rows
]


def refusal(status, code):
    said = f"<Error><Code>{code}</Code><Message>No.</Message></Error>" if code else ""
    return Reply(status, [], said.encode())


@pytest.mark.parametrize(("status", "provider", "code", "means", "to_do"), ROWS)
def test_a_refusal_says_what_it_means_and_what_to_do(status, provider, code, means, to_do):
    text = PROVIDERS[provider](refusal(status, code)).detail
    assert str(status) in text
    assert code in text
    assert means in text
    assert to_do in text


@pytest.mark.parametrize("provider", PROVIDERS)
def test_what_is_busy_is_tried_again_and_what_is_forbidden_is_not(provider):
    for status in (429, 503):
        assert class_of(PROVIDERS[provider](refusal(status, ""))) == Class.TRANSIENT
    for status in (403, 404, 412, 416):
        assert class_of(PROVIDERS[provider](refusal(status, ""))) == Class.PERMANENT


def test_every_status_is_told_of_by_every_provider():
    assert set(MEANS) == {403, 404, 409, 412, 416, 429, 503}
    assert all(set(providers) == set(PROVIDERS) for providers in MEANS.values())
