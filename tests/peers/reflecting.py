"""Ways for a gRPC server to say what its methods are: as PyPI's grpcio-reflection does, and as none should."""

import time

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool

V1 = "grpc.reflection.v1.ServerReflection"
V1ALPHA = "grpc.reflection.v1alpha.ServerReflection"


def read(path):
    with open(path, "rb") as file:
        return descriptor_pb2.FileDescriptorSet.FromString(file.read())


def servicer(path):
    """The real one, of what the file says now: "NAME NAME ...", and a set of descriptors beside it."""
    from grpc_reflection.v1alpha import reflection

    pool = descriptor_pool.DescriptorPool()
    for one in read(f"{path}.pb").file:
        pool.Add(one)
    with open(path, encoding="ascii") as file:
        return reflection.ReflectionServicer(file.read().split(), pool=pool)


def hostile(how):
    from grpc_reflection.v1alpha import reflection_pb2 as pb

    def files(*protos):
        said = pb.ServerReflectionResponse()
        said.file_descriptor_response.file_descriptor_proto.extend(proto.SerializeToString() for proto in protos)
        return said

    def proto(name, imports=(), **more):
        return descriptor_pb2.FileDescriptorProto(name=name, dependency=imports, **more)

    def answer(request):
        if request.HasField("list_services"):
            said = pb.ServerReflectionResponse()
            said.list_services_response.service.add(name="a.A")
            return said
        if how == "circle":
            circle = [proto("a.proto", ["b.proto"]), proto("b.proto", ["a.proto"])]
            for one in circle:
                one.public_dependency.append(0)
            return files(*circle)
        if how == "endless":
            number = request.file_by_filename.partition(".")[0] or "0"
            return files(proto(f"{number}.proto", [f"{int(number) + 1}.proto"]))
        if how == "large":
            return files(*(proto(f"{number}.proto", package="p" * 1024 * 1024) for number in range(17)))
        if how == "garbage":
            said = pb.ServerReflectionResponse()
            said.file_descriptor_response.file_descriptor_proto.append(b"\xff\xff\xff")
            return said
        if how == "lines":
            said = pb.ServerReflectionResponse()
            said.error_response.error_code = 5
            said.error_response.error_message = "one\nlevel=ERROR two" + "x" * 10000
            return said
        raise ValueError(how)

    def serve(requests, context):
        for request in requests:
            if how == "silent":
                time.sleep(3600)
            if how == "chatty":
                while True:
                    yield answer(pb.ServerReflectionRequest(list_services="*"))
            yield answer(request)

    return serve


def add(server, mode, packages):
    """mode: VERSION:FILE, or VERSION:!HOW."""
    import sys

    sys.path.insert(0, packages)
    from grpc_reflection.v1alpha import reflection_pb2 as pb

    version, _, what = mode.partition(":")
    if what.startswith("!"):
        serve = hostile(what[1:])
    else:
        serve = lambda requests, context: servicer(what).ServerReflectionInfo(requests, context)
    handler = grpc.stream_stream_rpc_method_handler(
        serve,
        request_deserializer=pb.ServerReflectionRequest.FromString,
        response_serializer=pb.ServerReflectionResponse.SerializeToString,
    )
    # Both versions are the same on the wire.
    name = {"v1": V1, "v1alpha": V1ALPHA}[version]
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(name, {"ServerReflectionInfo": handler}),))
