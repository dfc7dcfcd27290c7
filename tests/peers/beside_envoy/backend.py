"""A gRPC server that writes down what it is called with, and answers what the caller's metadata says.

Arguments: a set of descriptors, and the file for what was seen: a line of JSON a call. Prints its port, and ends with its standard input.
"""

import json
import pathlib
import sys
import threading
from concurrent import futures

import grpc

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))
from messages import Messages, is_map, pool_of  # noqa: E402
from serving import add, serve  # noqa: E402

SERVICES = ["every.v1.Every", "every.v1.Cuts", "google.iam.v1.IAMPolicy", "google.longrunning.Operations", "google.cloud.location.Locations"]

pool = pool_of(sys.argv[1])
messages = Messages(pool, None)
written = open(sys.argv[2], "a", encoding="ascii", buffering=1)
writing = threading.Lock()


def canonical(message):
    """The same message with what stands in an `Any` written anew: there are several ways to write that."""
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        if is_map(field):
            inside = value.values() if field.message_type.fields_by_name["value"].message_type else []
        else:
            inside = value if field.label == field.LABEL_REPEATED else [value]
        for one in inside:
            canonical(one)
    if message.DESCRIPTOR.full_name == "google.protobuf.Any" and message.type_url:
        held = messages.kind(message.type_url.rpartition("/")[2]).FromString(message.value)
        message.value = canonical(held).SerializeToString(deterministic=True)
    return message


def note(metadata, method, requests):
    """As the same message is the same text, whoever wrote it."""
    seen = [canonical(one).SerializeToString(deterministic=True).hex() for one in requests]
    line = json.dumps({"case": metadata.get("x-case"), "by": metadata.get("x-by"), "method": method, "requests": seen})
    with writing:
        written.write(line + "\n")


def answer(context, method, requests):
    metadata = dict(context.invocation_metadata())
    note(metadata, method.full_name, requests)
    status = metadata.get("x-status")
    if status:
        if "x-details-bin" in metadata:
            context.set_trailing_metadata((("grpc-status-details-bin", metadata["x-details-bin"]),))
        code = next(code for code in grpc.StatusCode if code.value[0] == int(status))
        context.abort(code, bytes.fromhex(metadata.get("x-message", "")).decode())
    if "x-answer-bin" in metadata:
        return metadata["x-answer-bin"]
    echoes = requests and requests[0].DESCRIPTOR == method.output_type
    return requests[0].SerializeToString() if echoes else b""


def answers(context, method, requests):
    one = answer(context, method, requests)
    return [one] * requests[0].number


def handler(method, proto):
    read = messages.factory.GetPrototype(method.input_type).FromString
    if proto.server_streaming:
        run = lambda request, context: answers(context, method, [request])  # noqa: E731
        return grpc.unary_stream_rpc_method_handler(run, request_deserializer=read)
    if proto.client_streaming:
        run = lambda requests, context: answer(context, method, list(requests))  # noqa: E731
        return grpc.stream_unary_rpc_method_handler(run, request_deserializer=read)
    run = lambda request, context: answer(context, method, [request])  # noqa: E731
    return grpc.unary_unary_rpc_method_handler(run, request_deserializer=read)


def main():
    options = [("grpc.so_reuseport", 0), ("grpc.max_metadata_size", 1 << 16)]
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=8), options=options)
    for name in SERVICES:
        add(server, pool.FindServiceByName(name), handler)
    serve(server)


main()
