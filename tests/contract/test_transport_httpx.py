"""The transport contract on httpx, on asyncio and trio, with a client of our own and an injected one."""

import ssl

import httpx
import pytest
import trustme

from meowcat.testing.servers import Content, RangeServer
from meowcat.testing.transport_suite import PATIENT, TransportSuite
from meowcat.transport import trust as trust_module
from meowcat.transport.contract import HttpRequest
from meowcat.transport.httpx import HttpxTransport, trust

pytestmark = [
    pytest.mark.anyio,
    # httpx nests generators and leaves the inner ones of an unfinished body to the collector; trio remarks on
    # it. The socket is closed all the same, which is what the suite looks at.
    pytest.mark.filterwarnings("ignore:Async generator 'http:ResourceWarning"),
]


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request):
    return request.param


class TestHttpx(TransportSuite):
    def make(self, timeouts, **options):
        return HttpxTransport(None, timeouts, **options)

    async def test_an_injected_client_is_used_as_it_is_and_left_open(self):
        with RangeServer(Content(10)) as server:
            async with httpx.AsyncClient(
                headers={"X-App": "1"}, auth=("me", "pass"), trust_env=False
            ) as client:
                transport = HttpxTransport(client, PATIENT)
                async with transport.send(HttpRequest("GET", server.url, {"X-Mine": "2"})) as reply:
                    assert reply.status == 200
                await transport.aclose()
                assert not client.is_closed
            seen = server.requests[0].headers
        assert (seen["x-app"], seen["x-mine"]) == ("1", "2")
        assert seen["authorization"].startswith("Basic ")


def subjects(context):
    return [each["subject"] for each in context.get_ca_certs()]


@pytest.fixture(scope="module")
def authorities():
    """One that stands in a bundle, and one of the system; the subject of each."""
    made = [trustme.CA(organization_name=name) for name in ("the bundle's", "the system's")]
    return made, [subjects(_trusting(each))[0] for each in made]


def _trusting(authority):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.configure_trust(context)
    return context


def test_the_authorities_of_the_system_are_trusted_and_those_of_a_bundle_besides(
    authorities, monkeypatch, tmp_path
):
    (own, system), (own_subject, system_subject) = authorities
    system.cert_pem.write_to_path(tmp_path / "system.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "system.pem"))
    monkeypatch.setattr(trust_module.sys, "platform", "linux")
    monkeypatch.setattr(httpx, "create_ssl_context", lambda: pytest.fail("nobody needs it"))
    assert system_subject in subjects(trust(True))
    assert own_subject not in subjects(trust(True))
    both = subjects(trust(own.cert_pem.bytes()))
    assert own_subject in both
    assert system_subject in both


def test_where_the_system_names_none_those_that_httpx_brings_are_trusted(authorities, monkeypatch):
    (own, _), (own_subject, _) = authorities
    monkeypatch.setattr(trust_module.sys, "platform", "darwin")
    usual = subjects(trust(True))
    assert usual == subjects(httpx.create_ssl_context())
    assert own_subject not in usual
    both = subjects(trust(own.cert_pem.bytes()))
    assert own_subject in both
    assert len(both) == len(usual) + 1


def test_who_wants_to_trust_everybody_does():
    assert trust(False) is False
