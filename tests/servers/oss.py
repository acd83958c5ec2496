"""A stand-in for Aliyun OSS on loopback: it recomputes signatures of version 4, and keeps OSS's rules.

    python tests/servers/oss.py --folder objects --port 8080

It prints one JSON line with its `origin`, answers each line of JSON on its standard input with another one
(`Doors`), and ends with its input. All that it holds is in the folder, so it may be killed and started again.

Buckets are found as OSS finds them, by the field Host: under an address or `localhost` the path names them,
under `bucket.oss-….…` the host does, and a host that was registered as a CNAME stands for its bucket. Under
`oss-….…` itself OSS takes no path that names a bucket (SecondLevelDomainForbidden).

That it is fair is what `tests/contract/test_oss_stand_in.py` is for: the official SDKs pass their own flows.
"""

import argparse
import asyncio
import base64
import ipaddress
import json
import secrets
import socket
import sys
import threading
import time
from pathlib import Path
from urllib.parse import unquote

import uvicorn
from oss_operations import Call, Content, Operations, operation_of
from oss_rules import element
from oss_signatures import Asked, Refusal, http_date, query_pairs, verify
from oss_store import Key, Store
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

KEY = Key("LTAIMEOWCATTEST", "made-up-secret-for-tests", None, None)
BUCKET = "meowcat-tests"
REGION = "cn-hangzhou"
SECRET = frozenset({"x-oss-signature", "x-oss-credential", "x-oss-security-token"})


class Service:
    """The HTTP side.

    A fault is a dict with the arguments of `Doors.fail`.
    """

    def __init__(self, store: Store, region: str):
        self.store = store
        self.region = region
        self.offset = 0
        """Milliseconds that its clock is ahead."""
        self.seen = []
        self.faults = []
        self._operations = Operations(store, lambda call: call.headers.get("host", ""))

    @property
    def now(self):
        return time.time_ns() // 1_000_000 + self.offset

    async def __call__(self, scope, receive, send):
        request = Request(scope, receive)
        id_ = secrets.token_hex(12).upper()
        note = {"id": id_, "method": request.method, "op": "", "status": 0, "code": ""}
        self.seen.append(note)
        try:
            reply = await self._answer(request, note)
        except Refusal as refusal:
            note["code"] = refusal.code
            reply = error(refusal, request, id_)
            if request.method not in ("GET", "HEAD"):
                await drain(request)  # a connection that is closed in mid-request takes the reply with it
        except ClientDisconnect:
            note["code"] = "disconnected"
            return
        note["status"] = reply.status_code
        reply.headers["Server"] = "AliyunOSS"
        reply.headers["Date"] = http_date(self.now)
        reply.headers["x-oss-request-id"] = id_
        reply.headers["x-oss-server-time"] = "1"
        await reply(scope, receive, send)

    async def _answer(self, request, note):
        headers = joined_headers(request)
        query = request.scope["query_string"].decode("ascii")
        path = path_of(request.scope["raw_path"].decode("ascii"))
        bucket, name = self._bucket_and_name(headers.get("host", ""), path)
        pairs = dict(query_pairs(query))
        note |= {
            "host": headers.get("host", ""),
            "bucket": bucket,
            "key": name,
            "query": {name: value for name, value in pairs.items() if name not in SECRET},
            "range": headers.get("range", ""),
        }
        note["op"] = operation = operation_of(request.method, bucket, name, pairs)
        fault = self._fault(note)
        if fault is not None and not fault["after"] and fault["cut"] is None:
            raise scripted(fault)
        verify(Asked(request.method, bucket, name, query, headers), self.store.key, self.region, self.now)
        reply = await self._operations.run(operation, Call(request, bucket, name, pairs, headers, self.now))
        if fault is not None and fault["cut"] is not None and isinstance(reply, Content):
            reply.cut = fault["cut"]
        elif fault is not None:
            raise scripted(fault)
        return reply

    def _bucket_and_name(self, host, path):
        """https://help.aliyun.com/en/oss/user-guide/regions-and-endpoints."""
        host = host.rpartition(":")[0] if host.rpartition(":")[2].isdecimal() else host
        labels = host.split(".")
        if host == "localhost" or is_address(host):
            bucket, _, name = path.removeprefix("/").partition("/")
            return unquote(bucket), unquote(name)
        if labels[0].startswith("oss-"):
            if path != "/":
                raise Refusal(
                    403,
                    "SecondLevelDomainForbidden",
                    "The bucket you are attempting to access must be addressed using OSS third level domain.",
                )
            return "", ""
        bucket = labels[0] if len(labels) > 1 and labels[1].startswith("oss-") else self.store.bucket_of(host)
        if bucket is None:
            raise Refusal(404, "NoSuchBucket", "The specified bucket does not exist.", BucketName=host)
        return bucket, unquote(path.removeprefix("/"))

    def _fault(self, note):
        for fault in self.faults:
            wanted = fault["where"]
            have = {**note["query"], **{name: note[name] for name in ("op", "key", "method", "range")}}
            if all(have.get(name) == value for name, value in wanted.items()):
                fault["times"] -= 1
                if fault["times"] == 0:
                    self.faults.remove(fault)
                return fault
        return None


def scripted(fault):
    return Refusal(fault["status"], fault["code"], "As the test wants it.", **fault["elements"])


def path_of(target):
    """Clients that think of this server as a proxy send the whole URL (RFC 9112 3.2.2)."""
    return target if target.startswith("/") else f"/{target.partition('://')[2].partition('/')[2]}"


def joined_headers(request):
    """Names in lower case; several of one name as one."""
    found = {}
    for name, value in request.headers.items():
        found[name] = f"{found[name]},{value}" if name in found else value
    return found


def is_address(host):
    try:
        ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return False
    return True


async def drain(request):
    try:
        async for _ in request.stream():
            pass
    except (ClientDisconnect, RuntimeError):  # gone, or read already
        pass


def error(refusal, request, id_):
    """https://help.aliyun.com/en/oss/user-guide/overview-14. A reply to HEAD has no body; the same XML comes
    in a header, in Base64."""
    children = [
        ("Code", refusal.code),
        ("Message", refusal.text),
        ("RequestId", id_),
        ("HostId", request.headers.get("host", "")),
        *refusal.elements.items(),
    ]
    if refusal.ec:
        children.append(("EC", refusal.ec))
    text = f'<?xml version="1.0" encoding="UTF-8"?>\n{element("Error", *children)}'
    headers = {"x-oss-ec": refusal.ec} if refusal.ec else {}
    if refusal.status == 304:
        return Response(status_code=304, headers=headers)
    if request.method == "HEAD":
        return Response(
            status_code=refusal.status,
            headers={**headers, "x-oss-err": base64.b64encode(text.encode()).decode()},
        )
    return Response(text, refusal.status, {**headers, "Content-Type": "application/xml"})


class Doors:
    """The back doors: what a line of JSON on standard input may ask for, by its `do`."""

    def __init__(self, service: Service):
        self._service = service
        self._store = service.store

    def requests(self):
        """Every request so far, in order."""
        return self._service.seen

    def forget(self):
        self._service.seen.clear()

    def uploads(self, bucket):
        """Those that are neither complete nor aborted."""
        return [vars(upload) for upload in self._store.uploads(bucket)]

    def parts(self, upload):
        return [vars(part) for part in self._store.parts(upload)]

    def object(self, bucket, name):
        """What is known of an object, and in which file its content is; None = it is not there."""
        found = self._store.object(bucket, name)
        return None if found is None else {**vars(found), "path": str(self._store.blobs / found.blob)}

    def abort(self, upload):
        """An upload goes, as one does that a rule of the bucket's life cycle ends."""
        self._store.abort(upload)

    def clock(self, ahead):
        """Milliseconds that the server's clock is ahead from now on."""
        self._service.offset = ahead

    def add_key(self, id, secret, token=None, expires=None):  # noqa: A002  # the name that AccessKey has
        """Another one who may ask; with a token and an end (milliseconds since 1970), one of a session."""
        self._store.add_key(Key(id, secret, token, expires))

    def add_bucket(self, name):
        self._store.add_bucket(name)

    def add_cname(self, host, bucket):
        self._store.add_cname(host, bucket)

    def fail(self, where, times, status=503, code="ServiceUnavailable", after=False, cut=None, **elements):
        """The next `times` requests that have all of `where` (`op`, `key`, `method`, `range`, or a parameter
        of the query) are answered with this error: before anything is done, or `after` it was. With `cut`,
        their reply's body ends after so many bytes, and the connection with it."""
        fault = {"where": where, "times": times, "status": status, "code": code, "after": after, "cut": cut}
        self._service.faults.append({**fault, "elements": elements})

    def mend(self):
        """None of the faults that were ordered comes any more."""
        self._service.faults.clear()

    def faults(self):
        """How many are left to come."""
        return sum(fault["times"] for fault in self._service.faults)


async def serve(server: uvicorn.Server, listener, doors: Doors):
    loop = asyncio.get_running_loop()

    async def ask(line):
        asked = json.loads(line)
        try:
            return {"said": getattr(doors, asked.pop("do"))(**asked)}
        except (AttributeError, TypeError) as wrong:
            return {"error": str(wrong)}

    def listen():
        for line in sys.stdin:
            said = asyncio.run_coroutine_threadsafe(ask(line), loop).result()
            print(json.dumps(said), flush=True)
        server.should_exit = True

    threading.Thread(target=listen, daemon=True).start()
    await server.serve(sockets=[listener])


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, required=True, help="where all of it is")
    parser.add_argument("--port", type=int, default=0, help="0 = any that is free")
    parser.add_argument("--region", default=REGION)
    parser.add_argument("--bucket", action="append", help=f"that is there from the beginning ({BUCKET})")
    options = parser.parse_args()
    store = Store(options.folder)
    store.add_key(KEY)
    for name in options.bucket or [BUCKET]:
        store.add_bucket(name)
    listener = socket.create_server(("127.0.0.1", options.port), backlog=256)
    # asyncio sees to it only for sockets of its own making; without it each reply waits 40 ms for an ACK.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    service = Service(store, options.region)
    config = uvicorn.Config(
        service,
        log_level="critical",
        access_log=False,
        lifespan="off",
        date_header=False,
        server_header=False,
        timeout_graceful_shutdown=1,
        timeout_keep_alive=60,  # or it would hang up, now and then, on a request that is on its way
    )
    print(json.dumps({"origin": f"http://127.0.0.1:{listener.getsockname()[1]}"}), flush=True)
    asyncio.run(serve(uvicorn.Server(config), listener, Doors(service)))
    store.close()


if __name__ == "__main__":
    main()
