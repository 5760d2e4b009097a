"""Plays many agents that attach with the extension's hello and then only answer pings: agents.py HOST:PORT PASSWORD FILE-OF-NAMES."""
import asyncio
import base64
import resource
import secrets
import sys

import msgpack

ENVIRON = {f"VARIABLE_{i}": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin" for i in range(20)}
HELLO = msgpack.packb({"op": "hello", "seq_number": 0, "args": {"info": {"basedir": "/base", "environ": ENVIRON, "system": "posix", "numcpus": 2,
                                                                        "version": "bench"}, "commands": []}})


def frame(op, payload):
    size = bytes([0x80 | len(payload)]) if len(payload) < 126 else b"\xfe" + len(payload).to_bytes(2, "big")
    return bytes([0x80 | op]) + size + b"\0\0\0\0" + payload


async def agent(host, port, name, password):
    r, w = await asyncio.open_connection(host, int(port), limit=4096)
    credentials = base64.b64encode(f"{name}:{password}".encode()).decode()
    w.write((f"GET / HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
             f"Sec-WebSocket-Key: {base64.b64encode(secrets.token_bytes(16)).decode()}\r\nAuthorization: Basic {credentials}\r\n"
             f"Rouse-Protocol: 1\r\nRouse-Agent: {base64.b32encode(secrets.token_bytes(20)).decode()[:26]}\r\n\r\n").encode())
    head = await r.readuntil(b"\r\n\r\n")
    if b" 101 " not in head.splitlines()[0]:
        raise RuntimeError(f"{name}: {head!r}")
    w.write(frame(2, HELLO))
    return r, w


async def serve(r, w):
    while True:
        first, size = await r.readexactly(2)
        if size == 126:
            size = int.from_bytes(await r.readexactly(2), "big")
        elif size == 127:
            size = int.from_bytes(await r.readexactly(8), "big")
        payload = await r.readexactly(size)
        if first & 15 == 9:
            w.write(frame(10, payload))


async def main(address, password, names):
    host, port = address.rsplit(":", 1)
    with open(names) as f:
        todo = f.read().split()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    tasks = []
    for i in range(0, len(todo), 50):  # few at a time: the master's backlog is bounded
        for pair in await asyncio.gather(*(agent(host, port, n, password) for n in todo[i:i + 50])):
            tasks.append(asyncio.ensure_future(serve(*pair)))
    await asyncio.gather(*tasks)


asyncio.run(main(*sys.argv[1:]))
