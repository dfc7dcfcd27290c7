"""What the gRPC servers here have in common: services by their descriptors, and how long they are there."""

import sys

import grpc
from google.protobuf import descriptor_pb2


def add(server, service, handler):
    """Serves a service's methods. `handler` makes what answers one, of its descriptor and of that as it is written."""
    protos = descriptor_pb2.ServiceDescriptorProto()
    service.CopyToProto(protos)
    by_name = {proto.name: proto for proto in protos.method}
    methods = {method.name: handler(method, by_name[method.name]) for method in service.methods}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service.full_name, methods),))


def serve(server, credentials=None):
    """Prints the port, and ends with the standard input."""
    free = "127.0.0.1:0"
    port = server.add_secure_port(free, credentials) if credentials else server.add_insecure_port(free)
    server.start()
    print(port, flush=True)
    sys.stdin.read()
    server.stop(0)
