"""A gRPC client: makes one kind of call through the gateway and prints what came of it as a line of JSON.

Arguments: the call's name, `host:port`, and for TLS the authority's PEM file. The calls are the functions below.
"""

import hashlib
import json
import queue
import sys
import time
from concurrent import futures

import grpc

SERVICE = "/portcullis.test.Echo/"
LARGE = bytes(range(256)) * 8192  # 2 MiB
DEADLINE = 20


def metadata(pairs):
    return {key: str(value) for key, value in pairs or ()}


def error(failure):
    return {
        "code": failure.code().name,
        "details": failure.details(),
        "trailing": metadata(failure.trailing_metadata()),
    }


def unary(channel):
    answer, call = channel.unary_unary(SERVICE + "Unary").with_call(b"hello", timeout=DEADLINE)
    empty = channel.unary_unary(SERVICE + "Unary")(b"", timeout=DEADLINE)
    return {"answer": answer.decode(), "empty": empty.decode(), "code": call.code().name, "trailing": metadata(call.trailing_metadata())}


def large(channel):
    answer = channel.unary_unary(SERVICE + "Unary")(LARGE, timeout=DEADLINE)
    return {"length": len(answer), "same": hashlib.sha256(answer).digest() == hashlib.sha256(LARGE).digest()}


def headers(channel):
    sent = (("x-api-version", "2"), ("x-blob-bin", b"\x00\x01\xff"))
    answer, call = channel.unary_unary(SERVICE + "Headers").with_call(b"", metadata=sent, timeout=DEADLINE)
    return {"seen": json.loads(answer), "initial": metadata(call.initial_metadata())}


def fail(channel):
    try:
        channel.unary_unary(SERVICE + "Fail")(b"", timeout=DEADLINE)
    except grpc.RpcError as failure:
        return error(failure)


def refused(channel):
    """A call that the gateway itself refuses."""
    try:
        channel.unary_unary("/portcullis.test.Nobody/Call")(b"", timeout=DEADLINE)
    except grpc.RpcError as failure:
        return error(failure)


def at(channel, path):
    """A call of that path, whatever comes of it."""
    try:
        answer, call = channel.unary_unary(path).with_call(b"a message of some length", timeout=DEADLINE)
        return {"code": call.code().name, "answer": answer.decode(), "trailing": metadata(call.trailing_metadata())}
    except grpc.RpcError as failure:
        facts = error(failure)
        # What ends a call at once has its fields in the head, which grpcio takes for the initial ones.
        facts["trailing"] = {**metadata(failure.initial_metadata()), **facts["trailing"]}
        return facts


def large_metadata(channel):
    return beside_metadata(channel, 50_000)


def huge_metadata(channel):
    return beside_metadata(channel, 1 << 20)


def beside_metadata(channel, size):
    """A call with so many bytes of it, beside a stream that is under way on the same connection, and a call afterwards."""
    outgoing = queue.Queue()
    beside = channel.stream_stream(SERVICE + "Echo")(iter(outgoing.get, None), timeout=DEADLINE)
    outgoing.put(b"before")
    facts = {"before": next(beside).decode()}
    try:
        channel.unary_unary(SERVICE + "Unary")(b"x", metadata=(("x-huge", "m" * size),), timeout=DEADLINE)
    except grpc.RpcError as failure:
        facts.update(error(failure))
    try:
        outgoing.put(b"beside")
        facts["beside"] = next(beside).decode()
    except grpc.RpcError as failure:
        facts["beside"] = failure.code().name
    outgoing.put(None)
    # On another connection, where that one was given up.
    facts["after"] = channel.unary_unary(SERVICE + "Unary")(b"after", timeout=DEADLINE, wait_for_ready=True).decode()
    return facts


def was_cancelled(channel):
    return {"answer": channel.unary_unary(SERVICE + "WasCancelled")(b"", timeout=DEADLINE).decode()}


def client_stream_small(channel):
    answer = channel.stream_unary(SERVICE + "Collect")((b"x" * 10_000 for _ in range(100)), timeout=DEADLINE)
    return {"answer": json.loads(answer)}


def client_stream_large(channel):
    messages = (b"x" * size for size in (10, 10, 150_000))
    answer = channel.stream_unary(SERVICE + "Collect")(messages, timeout=DEADLINE)
    return {"answer": json.loads(answer)}


def deadline(channel):
    """The client gives up; the backend must learn of it."""
    started = time.monotonic()
    try:
        channel.unary_unary(SERVICE + "Slow")(b"", timeout=0.5)
    except grpc.RpcError as failure:
        facts = error(failure)
    facts["took"] = time.monotonic() - started
    facts["cancelled"] = channel.unary_unary(SERVICE + "WasCancelled")(b"", timeout=DEADLINE).decode()
    return facts


def no_answer(channel):
    """The gateway gives up before the client does."""
    try:
        channel.unary_unary(SERVICE + "Slow")(b"", timeout=DEADLINE)
    except grpc.RpcError as failure:
        return error(failure)


def server_stream(channel):
    """20 messages with a pause after each: they have to come one by one."""
    call = channel.unary_stream(SERVICE + "Count")(json.dumps([20, 0.05]).encode(), timeout=DEADLINE)
    arrived = [(int(message), time.monotonic()) for message in call]
    return {"messages": [number for number, _ in arrived], "spread": arrived[-1][1] - arrived[0][1], "code": call.code().name}


def server_stream_fails(channel):
    call = channel.unary_stream(SERVICE + "FailMidway")(b"", timeout=DEADLINE)
    messages = []
    try:
        for message in call:
            messages.append(message.decode())
    except grpc.RpcError as failure:
        return {"messages": messages, **error(failure)}


def client_stream(channel):
    answer = channel.stream_unary(SERVICE + "Collect")((b"x" * 10_000 for _ in range(100)), timeout=DEADLINE)
    nothing = channel.stream_unary(SERVICE + "Collect")(iter(()), timeout=DEADLINE)
    return {"answer": json.loads(answer), "nothing": json.loads(nothing)}


def bidi(channel):
    """Ping-pong: the next message is sent only when the answer to the one before has come."""
    outgoing = queue.Queue()
    call = channel.stream_stream(SERVICE + "Echo")(iter(outgoing.get, None), timeout=DEADLINE)
    answers = []
    for index in range(50):
        outgoing.put(b"%d" % index)
        answers.append(int(next(call)))
    outgoing.put(None)
    rest = list(call)
    return {"answers": answers, "rest": len(rest), "code": call.code().name}


def patient(channel):
    """A stream on which nobody says anything for longer than the gateway's body, request and response timeouts of the test."""
    outgoing = queue.Queue()
    call = channel.stream_stream(SERVICE + "Echo")(iter(outgoing.get, None), timeout=DEADLINE)
    outgoing.put(b"first")
    answers = [next(call).decode()]
    time.sleep(2.5)
    outgoing.put(b"second")
    answers.append(next(call).decode())
    outgoing.put(None)
    return {"answers": answers, "rest": len(list(call)), "code": call.code().name}


def slow_upload(channel):
    """The first message comes late, and the server says nothing before it has them all."""

    def messages():
        for _ in range(3):
            time.sleep(1)
            yield b"x"

    answer = channel.stream_unary(SERVICE + "Collect")(messages(), timeout=DEADLINE)
    return {"answer": json.loads(answer)}


def many(channel):
    """200 calls at once on one connection."""
    with futures.ThreadPoolExecutor(64) as pool:
        call = channel.unary_unary(SERVICE + "Unary")
        answers = list(pool.map(lambda index: int(call(b"%d" % index, timeout=DEADLINE)), range(200)))
    return {"same": answers == list(range(200))}


def main():
    name, target = sys.argv[1:3]
    options = [("grpc.max_receive_message_length", 16 << 20), ("grpc.max_send_message_length", 16 << 20), ("grpc.enable_http_proxy", 0)]
    if len(sys.argv) > 3:
        with open(sys.argv[3], "rb") as pem:
            credentials = grpc.ssl_channel_credentials(pem.read())
        options.append(("grpc.ssl_target_name_override", "grpc.example.com"))
        channel = grpc.secure_channel(target, credentials, options)
    else:
        channel = grpc.insecure_channel(target, options)
    with channel:
        try:
            facts = at(channel, name) if name.startswith("/") else globals()[name](channel)
        except grpc.RpcError as failure:
            facts = {"unexpected": True, **error(failure)}
    print(json.dumps(facts))


main()
