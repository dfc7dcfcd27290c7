"""A gRPC client (grpcio) whose messages are told as JSON.

Arguments: `host:port`, a set of descriptors, and calls as JSON: [{"method": "pkg.Service.Method", "message": {}, "metadata": {}, "timeout": 5}].
Prints what came of each as a line of JSON.
"""

import json
import sys

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory

address, path, calls = sys.argv[1:4]
pool = descriptor_pool.DescriptorPool()
with open(path, "rb") as file:
    for one in descriptor_pb2.FileDescriptorSet.FromString(file.read()).file:
        pool.Add(one)
factory = message_factory.MessageFactory(pool)


def text(pairs):
    return {key: value.hex() if isinstance(value, bytes) else value for key, value in pairs or ()}


def call(channel, one):
    service, _, name = one["method"].rpartition(".")
    method = pool.FindServiceByName(service).FindMethodByName(name)
    take, give = factory.GetPrototype(method.input_type), factory.GetPrototype(method.output_type)
    message = json_format.ParseDict(one.get("message", {}), take(), descriptor_pool=pool)
    shape = channel.unary_unary if not one.get("stream") else channel.unary_stream
    stub = shape(f"/{service}/{name}", request_serializer=take.SerializeToString, response_deserializer=give.FromString)
    metadata = tuple(one.get("metadata", {}).items())
    try:
        if one.get("stream"):
            return {"code": "OK", "messages": [json_format.MessageToDict(said) for said in stub(message, timeout=20)]}
        answer, done = stub.with_call(message, metadata=metadata, timeout=one.get("timeout", 20))
        return {
            "code": done.code().name,
            "message": json_format.MessageToDict(answer, descriptor_pool=pool),
            "initial": text(done.initial_metadata()),
            "trailing": text(done.trailing_metadata()),
        }
    except grpc.RpcError as failure:
        fields = {**text(failure.initial_metadata()), **text(failure.trailing_metadata())} if hasattr(failure, "initial_metadata") else {}
        return {"code": failure.code().name, "details": failure.details(), "fields": fields}


with grpc.insecure_channel(address) as channel:
    print(json.dumps([call(channel, one) for one in json.loads(calls)]))
