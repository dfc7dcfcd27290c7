"""A WebSocket server. The path says how it behaves.

Prints its port, and ends when its standard input closes, so that it cannot outlive the test that started it.
"""

import asyncio
import http
import sys

import websockets

GONE = asyncio.Event()


async def handle(socket, path):
    path = path.split("?")[0]
    if path == "/ws/push":
        # At once, before the client has said anything.
        for index in range(100):
            await socket.send(str(index))
        await socket.close(1000, "done")
    elif path == "/ws/close":
        await socket.recv()
        await socket.close(4321, "the server has had enough")
    elif path == "/ws/watch":
        # What the client closed with, told to whoever asks for it next.
        try:
            async for _ in socket:
                pass
        finally:
            handle.closed = (socket.close_code, socket.close_reason)
            GONE.set()
    elif path == "/ws/closed":
        await asyncio.wait_for(GONE.wait(), 10)
        code, reason = handle.closed
        await socket.send(f"{code} {reason}")
    elif path == "/ws/headers":
        await socket.send("\n".join(f"{name}: {value}" for name, value in socket.request_headers.raw_items()))
    else:
        async for message in socket:
            await socket.send(message)


async def refuse(path, headers):
    """Answers plainly instead of upgrading."""
    if path.startswith("/ws/plain"):
        return http.HTTPStatus.OK, [("Content-Type", "text/plain")], b"no tunnel here\n"
    if path.startswith("/ws/forbidden"):
        return http.HTTPStatus.FORBIDDEN, [("Content-Type", "text/plain")], b"not for you\n"
    return None


async def main():
    end = asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    serve = websockets.serve(handle, "127.0.0.1", 0, process_request=refuse, max_size=32 << 20, ping_interval=None, subprotocols=["chat"])
    async with serve as server:
        print(server.sockets[0].getsockname()[1], flush=True)
        await end


asyncio.run(main())
