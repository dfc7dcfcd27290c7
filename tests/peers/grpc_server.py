"""A gRPC server with generic handlers (no generated code): raw bytes in, raw bytes out.

Prints its port, and ends when its standard input closes, so that it cannot outlive the test that started it.
Arguments: none for plaintext, or a certificate and a key file for TLS.
"""

import itertools
import json
import sys
import threading
import time
from concurrent import futures

import grpc

from serving import serve

SERVICE = "portcullis.test.Echo"
# Set when a call ends before its handler did, whoever ended it.
cancelled = threading.Event()


def unary(request, context):
    context.set_trailing_metadata((("x-trailing", "after"), ("x-length", str(len(request)))))
    return request


def headers(request, context):
    """What the backend was told, as JSON."""
    context.send_initial_metadata((("x-initial", "before"),))
    seen = {key: str(value) for key, value in context.invocation_metadata()}
    return json.dumps({**seen, "time-remaining": context.time_remaining()}).encode()


def fail(request, context):
    context.set_trailing_metadata((("x-why", "because"),))
    context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "no more: äöü %")


flaky_calls = itertools.count()


def flaky(request, context):
    """Every other call is refused. The answer says which attempt it is."""
    if next(flaky_calls) % 2 == 0:
        context.abort(grpc.StatusCode.UNAVAILABLE, "not now")
    return dict(context.invocation_metadata()).get("x-portcullis-attempt", "").encode()


def slow(request, context):
    # Of this call alone: one that was cancelled before makes no other one quick.
    over = threading.Event()

    def ended():
        cancelled.set()
        over.set()

    if not context.add_callback(ended):
        ended()
    over.wait(30)
    return b"late"


def was_cancelled(request, context):
    return b"yes" if cancelled.wait(5) else b"no"


def count(request, context):
    """Server streaming: as many messages as asked for, a pause after each."""
    number, pause = json.loads(request)
    for index in range(number):
        yield str(index).encode()
        time.sleep(pause)


def fail_midway(request, context):
    yield b"one"
    yield b"two"
    context.abort(grpc.StatusCode.DATA_LOSS, "the rest is lost")


def collect(requests, context):
    """Client streaming: how many messages, how many bytes."""
    messages = total = 0
    for request in requests:
        messages += 1
        total += len(request)
    return json.dumps([messages, total]).encode()


def echo(requests, context):
    """Bidirectional: one answer to each message, as it comes."""
    for request in requests:
        yield request


def first(requests, context):
    """Client streaming that is answered as soon as there is one message."""
    return next(requests)


# The statuses of grpc.health.v1: 1 is SERVING, 2 is NOT_SERVING.
health = {b"": 1, b"shop.Catalog": 2}


def check(request, context):
    """`grpc.health.v1.Health/Check`: one text there, one number back."""
    name = request[2:] if request else b""
    if name not in health:
        context.abort(grpc.StatusCode.NOT_FOUND, "unknown service")
    return bytes([8, health[name]])


def recover(request, context):
    health[b"shop.Catalog"] = 1
    return b""


METHODS = {
    "Recover": grpc.unary_unary_rpc_method_handler(recover),
    "First": grpc.stream_unary_rpc_method_handler(first),
    "Unary": grpc.unary_unary_rpc_method_handler(unary),
    "Headers": grpc.unary_unary_rpc_method_handler(headers),
    "Flaky": grpc.unary_unary_rpc_method_handler(flaky),
    "Fail": grpc.unary_unary_rpc_method_handler(fail),
    "Slow": grpc.unary_unary_rpc_method_handler(slow),
    "WasCancelled": grpc.unary_unary_rpc_method_handler(was_cancelled),
    "Count": grpc.unary_stream_rpc_method_handler(count),
    "FailMidway": grpc.unary_stream_rpc_method_handler(fail_midway),
    "Collect": grpc.stream_unary_rpc_method_handler(collect),
    "Echo": grpc.stream_stream_rpc_method_handler(echo),
}


def main():
    options = [("grpc.max_receive_message_length", 16 << 20), ("grpc.max_send_message_length", 16 << 20), ("grpc.so_reuseport", 0)]
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=32), options=options)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, METHODS),))
    check_handler = {"Check": grpc.unary_unary_rpc_method_handler(check)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("grpc.health.v1.Health", check_handler),))
    credentials = None
    if len(sys.argv) == 3:
        with open(sys.argv[1], "rb") as cert, open(sys.argv[2], "rb") as key:
            credentials = grpc.ssl_server_credentials([(key.read(), cert.read())])
    serve(server, credentials)


main()
