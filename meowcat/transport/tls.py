"""TLS on sockets of one's own, by Python's `ssl`: its handshake, and sockets that speak it as plain ones are
spoken to.
"""

import errno
import os
import re
import socket
import ssl
from pathlib import Path
from time import perf_counter
from typing import cast

import anyio

from meowcat.transport.hosts import is_address
from meowcat.transport.trust import system_context

__all__ = ["LONGEST_FILL", "SecureSocket", "can_be_named", "client_context", "secure", "why_insecure"]

MOST_IN_A_RECORD = 1 << 14
"""Bytes that a record brings at the most (RFC 8446 5.1)."""

LONGEST_FILL = 0.2
"""Seconds after which a thread hands on what has come, though there is room for more: else a slow body would
look like a silent one."""

_NAME = re.compile(r"([^.:]{1,63}\.)*(?!\d+$|0x[0-9a-f]*$)[^.:]{1,63}")
"""Of a host, in lower case. One with a number at its end is an address (127.1 is one, too)."""


class SecureSocket(ssl.SSLSocket):
    """One that behaves as a socket without TLS does: it says `BlockingIOError` where it would have to wait,
    and `ConnectionResetError` where what comes is not what was sent; and it can be shut down while a thread
    reads.

    Such is an end, too, that was not announced: anybody on the way could have made it (RFC 8446 6.1).
    """

    _broken: OSError | None = None
    """What is told at the next call: by then something had come."""
    _ended = False
    """Whether an end that was announced has been read, behind something that had come."""

    @property
    def holds(self) -> bool:
        """Whether the next call has something to tell of which the connection shows nothing any more."""
        return self._ended or self._broken is not None or self.pending() > 0

    def recv(self, buflen: int = 1024, flags: int = 0) -> bytes:
        """What has come, of more than one record where they are full. With MSG_PEEK, some byte where anything
        has."""
        if flags:
            return b"?" if self.holds else socket.socket.recv(self, buflen, flags)
        came = record = self._read(buflen)
        while len(record) == MOST_IN_A_RECORD and len(came) < buflen and not self.gettimeout():
            try:
                record = self._read(buflen - len(came))
            except BlockingIOError:
                break
            except OSError as error:
                self._broken = error
                break
            self._ended = not record
            came += record
        return came

    def recv_into(self, buffer: memoryview) -> int:  # type: ignore[override]  # nobody says more of it
        """Fill all of `buffer`, unless the end comes before, or that takes long."""
        self._tell()
        count, size, until = 0, len(buffer), perf_counter() + LONGEST_FILL
        try:
            while count < size and (came := self.read(size - count, buffer[count:])):
                count += cast("int", came)
                if perf_counter() > until:
                    break
        except (OSError, ValueError) as error:
            if not count:
                raise _as_without_tls(error) from None
            self._broken = _as_without_tls(error)
        return count

    def send(self, data: memoryview | bytes, flags: int = 0) -> int:  # type: ignore[override]  # likewise
        try:
            return super().send(data, flags)
        except OSError as error:
            raise _as_without_tls(error) from None

    def shutdown(self, how: int) -> None:
        """Of the connection alone. A thread that reads would go on without TLS if its state were taken away,
        and take for content what is encrypted."""
        socket.socket.shutdown(self, how)

    def _read(self, size: int) -> bytes:
        self._tell()
        try:
            return self.read(size)
        except (OSError, ValueError) as error:
            raise _as_without_tls(error) from None

    def _tell(self) -> None:
        if self._broken is not None:
            try:
                raise self._broken
            finally:
                self._broken = None


def _as_without_tls(error: OSError | ValueError) -> OSError:
    if isinstance(error, ssl.SSLWantReadError | ssl.SSLWantWriteError):
        return BlockingIOError()
    if isinstance(error, ssl.SSLError):
        return ConnectionResetError()
    if isinstance(error, OSError):
        return error
    return OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN))  # it was over before the first step of TLS


def client_context(bundle: str | Path | bytes | None) -> ssl.SSLContext | None:
    """One that makes sockets of this kind, and trusts whom `system_context` says; None where that is none.

    Raises:
        InvalidArgument: the bundle can't be read, or is none.
    """
    context = system_context(bundle)
    if context is not None:
        context.sslsocket_class = SecureSocket
        context.set_alpn_protocols(["http/1.1"])
        context.options &= ~ssl.OP_IGNORE_UNEXPECTED_EOF
        context.options |= ssl.OP_NO_RENEGOTIATION  # or else sending may have to wait for what is received
    return context


async def secure(sock: socket.socket, host: str, context: ssl.SSLContext, seconds: float) -> SecureSocket:
    """Shake hands over a connected socket, which is the one's that comes back from then on.

    Raises:
        ssl.SSLError: `host` is not trusted, or speaks no TLS. TimeoutError, OSError: the connection fails.

    """
    try:
        sock = secured = context.wrap_socket(
            sock, server_hostname=host, do_handshake_on_connect=False, suppress_ragged_eofs=False
        )
        with anyio.fail_after(seconds):
            await _shake_hands(secured)
    except BaseException:  # raised again: a cancellation, perhaps
        sock.close()
        raise
    return cast("SecureSocket", secured)


async def _shake_hands(sock: ssl.SSLSocket) -> None:
    while True:
        try:
            sock.do_handshake()
        except ssl.SSLWantReadError:
            await anyio.wait_readable(sock)
        except ssl.SSLWantWriteError:
            await anyio.wait_writable(sock)
        else:
            return


def why_insecure(error: ssl.SSLError) -> str:
    """OpenSSL's own words, in which nothing of the peer's stands."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return error.verify_message
    return (error.reason or "").replace("_", " ").lower()


def can_be_named(host: str) -> bool:
    """Whether it can be asked of a certificate: no name that certificates know in another form, nor such as
    nobody can have."""
    return _NAME.fullmatch(host) is not None or is_address(host)
