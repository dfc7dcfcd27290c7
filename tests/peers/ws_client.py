"""A WebSocket client: plays one scene through the gateway and prints what came of it as a line of JSON.

Arguments: the scene's name, the base URI, and for TLS the authority's PEM file. The scenes are the functions below.
"""

import asyncio
import json
import os
import ssl
import sys

import websockets


def connect(path, **options):
    if len(sys.argv) > 3:
        options["ssl"] = ssl.create_default_context(cafile=sys.argv[3])
        options["server_hostname"] = "ws.example.com"
    return websockets.connect(sys.argv[2] + path, max_size=32 << 20, ping_interval=None, open_timeout=10, **options)


async def echo():
    large = os.urandom(3 << 20)
    async with connect("/ws/echo", subprotocols=["chat"]) as socket:
        await socket.send("grüße")
        text = await socket.recv()
        await socket.send(b"\x00\x01\x02\xff")
        binary = await socket.recv()
        await socket.send(large)
        same = await socket.recv() == large
        await socket.send("")
        empty = await socket.recv()
        for index in range(1000):
            await socket.send(str(index))
        many = [int(await socket.recv()) for _ in range(1000)] == list(range(1000))
        pong = await socket.ping()
        await asyncio.wait_for(pong, 5)
        protocol = socket.subprotocol
    return {"text": text, "binary": list(binary), "large": same, "empty": empty, "many": many, "protocol": protocol, "closed": socket.close_code}


async def push():
    """The server speaks first, at once. Many times, for what is looked for is a race."""
    for _ in range(50):
        async with connect("/ws/push") as socket:
            messages = [int(message) async for message in socket]
            if messages != list(range(100)) or socket.close_code != 1000:
                return {"messages": messages, "closed": socket.close_code}
    return {"messages": "all", "closed": socket.close_code}


async def server_closes():
    async with connect("/ws/close") as socket:
        await socket.send("go")
        try:
            await socket.recv()
        except websockets.ConnectionClosed:
            pass
        return {"code": socket.close_code, "reason": socket.close_reason}


async def client_closes():
    async with connect("/ws/watch") as socket:
        await socket.send("hello")
        await socket.close(4444, "the client has had enough")
    async with connect("/ws/closed") as socket:
        return {"seen": await socket.recv()}


async def client_vanishes():
    """No closing handshake: the backend must still learn of it."""
    socket = await connect("/ws/watch")
    await socket.send("hello")
    socket.transport.abort()
    async with connect("/ws/closed") as socket:
        return {"seen": await socket.recv()}


async def idle():
    async with connect("/ws/echo") as socket:
        await socket.send("before")
        before = await socket.recv()
        await asyncio.sleep(3)
        await socket.send("after")
        return {"before": before, "after": await socket.recv()}


async def headers():
    async with connect("/ws/headers", extra_headers={"X-Mine": "1"}) as socket:
        return {"seen": await socket.recv()}


async def refused(path):
    try:
        async with connect(path):
            return {"status": 101}
    except websockets.InvalidStatusCode as answer:
        return {"status": answer.status_code}


async def plain():
    return await refused("/ws/plain")


async def forbidden():
    return await refused("/ws/forbidden")


async def anonymous():
    return await refused("/ws/echo")


async def with_key():
    async with connect("/ws/echo", extra_headers={"X-API-Key": "top-secret-key"}) as socket:
        await socket.send("let me in")
        return {"answer": await socket.recv()}


print(json.dumps(asyncio.run(asyncio.wait_for(globals()[sys.argv[1]](), 25))))
