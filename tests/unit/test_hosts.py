import pytest

from meowcat.transport.hosts import is_address


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "2001:db8::1"])
def test_an_address_is_one(host):
    assert is_address(host)


@pytest.mark.parametrize(
    "host", ["", "localhost", "127.1", "0x7f000001", "1.2.3.4.example", "[::1]", "01.2.3.4"]
)
def test_a_name_is_no_address(host):
    assert not is_address(host)
