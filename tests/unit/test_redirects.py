"""Which redirects are followed, where to, and whether the caller's headers go along."""

import pytest

from meowcat.core.redirect_rules import FOLLOWED, MAX_HOPS, Hop, is_redirect, next_hop, same_origin, shown
from meowcat.core.values import FaultKind

HERE = "https://a.example/dir/file?x=1"


def judge(location, current=HERE, visited=None):
    return next_hop(location, current, visited or [current])


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_the_five_redirects_are_followed_for_get_and_head(method, status):
    assert is_redirect(method, status)


@pytest.mark.parametrize("status", [200, 206, 300, 304, 305, 306, 400])
def test_other_statuses_are_not(status):
    assert not is_redirect("GET", status)
    assert status not in FOLLOWED


@pytest.mark.parametrize("method", ["PUT", "POST", "DELETE", "PATCH"])
def test_methods_that_change_something_are_never_repeated_elsewhere(method):
    assert not is_redirect(method, 307)


@pytest.mark.parametrize(
    ("location", "url"),
    [
        ("https://a.example/b", "https://a.example/b"),
        ("/b?y=2", "https://a.example/b?y=2"),
        ("other", "https://a.example/dir/other"),
        ("../up", "https://a.example/up"),
        ("?y=2", "https://a.example/dir/file?y=2"),
        ("//a.example:443/c", "https://a.example:443/c"),
        ("/b#part", "https://a.example/b"),
        ("/a b/ü", "https://a.example/a%20b/%C3%BC"),
        ("/kept%2Fas%20is", "https://a.example/kept%2Fas%20is"),
        ("https://me:pw@a.example/b", "https://a.example/b"),
    ],
)
def test_location_is_resolved_against_the_request(location, url):
    assert judge(location) == Hop(url, same_origin=True)


@pytest.mark.parametrize(
    "location",
    [
        "https://b.example/x",
        "//b.example/x",
        "https://a.example:8443/x",
        "https://a.example.evil.example/x",
        "https://a.example@b.example/x",
    ],
)
def test_another_host_or_port_is_another_origin(location):
    hop = judge(location)
    assert isinstance(hop, Hop)
    assert not hop.same_origin


def test_http_to_https_is_followed_as_another_origin():
    assert judge("https://a.example/x", "http://a.example/x") == Hop("https://a.example/x", same_origin=False)


def test_origins_ignore_case_and_default_ports():
    assert same_origin("HTTPS://A.example/x", "https://a.example:443/y")
    assert not same_origin("http://a.example", "https://a.example")


@pytest.mark.parametrize(
    "location",
    [
        "http://a.example/x",
        "ftp://a.example/x",
        "file:///etc/passwd",
        "javascript:alert(1)",
        "http:///nowhere",
        "https://[::1/x",
        "https://a.example:port/x",
        "https://a.example:99999/x",
    ],
)
def test_downgrades_foreign_schemes_and_broken_urls_are_refused(location):
    fault = judge(location)
    assert fault.kind is FaultKind.REDIRECT


@pytest.mark.parametrize("location", [None, ""])
def test_a_redirect_to_nowhere_is_a_broken_reply(location):
    assert judge(location).kind is FaultKind.REPLY


def test_a_circle_is_noticed():
    visited = [HERE, "https://a.example/two"]
    assert judge("/dir/file?x=1", "https://a.example/two", visited).kind is FaultKind.REDIRECT


def test_ten_redirects_are_followed_and_the_eleventh_is_not():
    visited = [f"https://a.example/{number}" for number in range(MAX_HOPS)]
    assert isinstance(judge("/next", visited[-1], visited), Hop)
    visited.append("https://a.example/last")
    assert judge("/next", visited[-1], visited).kind is FaultKind.REDIRECT


@pytest.mark.parametrize(
    ("location", "visited"),
    [
        ("http://b.example/secret?sig=secret", None),
        ("ftp://me:secret@b.example/secret", None),
        ("https://[secret", None),
        ("/dir/secret?sig=secret", ["https://a.example/dir/secret?sig=secret"]),
        ("/x", [f"https://a.example/secret{number}" for number in range(11)]),
    ],
)
def test_faults_name_no_path_query_or_password(location, visited):
    fault = judge(location, "https://u:secret@a.example/secret?sig=secret", visited)
    assert fault.kind is FaultKind.REDIRECT
    assert "secret" not in fault.detail


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("https://u:p@a.example/b?c", "https://a.example"),
        ("http://a.example:8080/b", "http://a.example:8080"),
        ("http://[::1]:80/b", "http://[::1]"),
        ("http://[::1/b", "(no URL)"),
    ],
)
def test_origins_are_shown_without_anything_else(url, text):
    assert shown(url) == text
