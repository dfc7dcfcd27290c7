"""Calls over one connection of HTTP/2 that go on while the gateway's process is replaced: unary ones without a pause, one server stream, one
bidirectional one. Arguments: `host:port`, and the path of a unary call that answers with what it is sent.

Says `under way` when all three have answered something, and ends when a line comes on its standard input: with what came of them, as a line of JSON.
"""

import json
import queue
import sys
import threading
import time

import grpc

SERVICE = "/portcullis.test.Echo/"
DEADLINE = 30
# So many messages does the server's stream have, and so long, in seconds, does it rest between them.
LONG, PAUSE = 120, 0.05

facts = {"calls": 0, "failures": [], "stream": None, "bidi": None}
begun = [threading.Event() for _ in range(3)]
over = threading.Event()


def failure(error):
    return f"{error.code().name}: {error.details()}"


def keeps_calling(channel):
    call = channel.unary_unary(SERVICE + "Unary")
    while not over.is_set():
        number = b"%d" % facts["calls"]
        try:
            if call(number, timeout=DEADLINE) != number:
                facts["failures"].append("another answer")
        except grpc.RpcError as error:
            facts["failures"].append(failure(error))
        facts["calls"] += 1
        begun[0].set()


def streams(channel):
    came = []
    try:
        for message in channel.unary_stream(SERVICE + "Count")(json.dumps([LONG, PAUSE]).encode(), timeout=DEADLINE):
            came.append(int(message))
            begun[1].set()
        facts["stream"] = came == list(range(LONG)) or came
    except grpc.RpcError as error:
        facts["stream"] = f"{failure(error)} after {len(came)}"
        begun[1].set()


def converses(channel):
    outgoing = queue.Queue()
    number = 0
    try:
        call = channel.stream_stream(SERVICE + "Echo")(iter(outgoing.get, None), timeout=DEADLINE)
        while not over.is_set():
            outgoing.put(b"%d" % number)
            if int(next(call)) != number:
                raise ValueError(number)
            number += 1
            begun[2].set()
            time.sleep(0.01)
        outgoing.put(None)
        facts["bidi"] = list(call) == []
    except grpc.RpcError as error:
        facts["bidi"] = f"{failure(error)} after {number}"
        begun[2].set()


def main():
    options = [("grpc.enable_http_proxy", 0), ("grpc.enable_retries", 0), ("grpc.max_reconnect_backoff_ms", 1000)]
    with grpc.insecure_channel(sys.argv[1], options) as channel:
        threads = [threading.Thread(target=one, args=(channel,)) for one in (keeps_calling, keeps_calling, streams, converses)]
        for thread in threads:
            thread.start()
        if not all(one.wait(DEADLINE) for one in begun):
            print(json.dumps({"unexpected": facts}), flush=True)
        print("under way", flush=True)
        sys.stdin.readline()
        before = facts["calls"]
        # There are some behind it.
        until = time.monotonic() + DEADLINE
        while facts["calls"] < before + 20 and time.monotonic() < until:
            time.sleep(0.01)
        over.set()
        for thread in threads:
            thread.join(DEADLINE)
    print(json.dumps(facts), flush=True)


main()
