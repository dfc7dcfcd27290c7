"""A gRPC server for clients that speak REST: the services of tests/transcode/protos.

Arguments: a set of descriptors; and if it is to say what its methods are, how (`reflecting.py`), and the folder of the packages for that. Prints its port, and ends with its standard input.
"""

import sys
import time
from concurrent import futures

import grpc
from google.protobuf import message_factory

import reflecting
from messages import pool_of
from serving import add, serve

pool = pool_of(sys.argv[1])
factory = message_factory.MessageFactory(pool)


def kind(name):
    return factory.GetPrototype(pool.FindMessageTypeByName(name))


Product, Seen, HttpBody, Item = kind("shop.v1.Product"), kind("shop.v1.Seen"), kind("google.api.HttpBody"), kind("Item")
Status = kind("google.rpc.Status")
# For retries: how often each product was asked for.
asked = {}


def get_product(request, context):
    asked[request.sku] = asked.get(request.sku, 0) + 1
    if request.slow_ms:
        time.sleep(request.slow_ms / 1000)
    if request.sku.startswith("flaky") and asked[request.sku] == 1:
        context.abort(grpc.StatusCode.UNAVAILABLE, "once")
    if request.sku == "none":
        context.abort(grpc.StatusCode.NOT_FOUND, "There is no product `none`.")
    context.send_initial_metadata((("x-initial", "before"), ("cache-control", "max-age=60"), ("etag", '"e1"')))
    context.set_trailing_metadata((("x-trailing", "behind"), ("x-blob-bin", b"\x00\xff")))
    return Product(sku=request.sku, name=request.shelf or f"asked {asked[request.sku]}", unit_price=79.99)


def metadata(request, context):
    fields = {}
    for name, value in context.invocation_metadata():
        text = value.hex() if isinstance(value, bytes) else value
        fields[name] = f"{fields[name]}, {text}" if name in fields else text
    fields["deadline"] = "" if context.time_remaining() is None else str(context.time_remaining())
    return Seen(fields=fields)


def code_of(number):
    return next(code for code in grpc.StatusCode if code.value[0] == number)


def fail(request, context):
    trailing = []
    if request.details:
        status = Status(code=request.code, message=request.message)
        for detail in request.details:
            name, _, text = detail.partition("=")
            any_ = status.details.add()
            any_.type_url = f"type.googleapis.com/{name}"
            if text:
                message = kind(name)()
                field, _, value = text.partition(":")
                setattr(message, field, value)
                any_.value = message.SerializeToString()
        trailing.append(("grpc-status-details-bin", status.SerializeToString()))
    if request.pushback_ms:
        trailing.append(("grpc-retry-pushback-ms", str(request.pushback_ms)))
    context.set_trailing_metadata(trailing)
    if request.late:
        context.send_initial_metadata((("x-initial", "before"),))
    context.abort(code_of(request.code), request.message)


def watch(request, context):
    for number in range(request.count):
        yield Product(sku=str(number), name="x" * request.size)
        if request.pause_ms:
            time.sleep(request.pause_ms / 1000)
    if request.fail_with:
        context.abort(code_of(request.fail_with), "in the middle")
    context.set_trailing_metadata((("x-trailing", "behind"),))


def upload(request, context):
    return HttpBody(content_type=request.content_type.upper() or "text/plain", data=request.data[::-1])


def download(request, context):
    for number in range(request.count):
        yield HttpBody(content_type="text/csv", data=f"{number},{'x' * request.size}\n".encode())
        if request.pause_ms:
            time.sleep(request.pause_ms / 1000)
    if request.fail_with:
        context.abort(code_of(request.fail_with), "in the middle")


def collect(requests, context):
    skus = []
    for one in requests:
        skus.append(one.sku)
        if one.sku == "stop":
            break
        if one.sku == "flaky":
            context.abort(grpc.StatusCode.UNAVAILABLE, "once")
    return Product(name=",".join(skus), unit_price=len(skus))


def converse(requests, context):
    for one in requests:
        if one.sku == "stop":
            return
        if one.sku == "fail":
            context.abort(grpc.StatusCode.OUT_OF_RANGE, "enough")
        yield Product(sku=one.sku.upper(), name=one.name, unit_price=one.unit_price)


def store(requests, context):
    pieces = list(requests)
    kinds = {one.content_type for one in pieces}
    return Product(sku=",".join(sorted(kinds)), name=b"".join(one.data for one in pieces).decode("latin-1")[:40])


def seed(request, context):
    return Item(sku=request.sku, name="Wireless Headphones", price=79.99)


ANSWERS = {
    "shop.v1.Catalog.GetProduct": get_product,
    "shop.v1.Catalog.Find": get_product,
    "shop.v1.Catalog.Echo": lambda request, context: request,
    "shop.v1.Catalog.Metadata": metadata,
    "shop.v1.Catalog.Fail": fail,
    "shop.v1.Catalog.Watch": watch,
    "shop.v1.Catalog.Upload": upload,
    "shop.v1.Catalog.Download": download,
    "shop.v1.Catalog.Collect": collect,
    "shop.v1.Catalog.Converse": converse,
    "shop.v1.Catalog.Store": store,
    "catalogService.getProduct": seed,
}


def handler(method, proto):
    shape = ("stream" if proto.client_streaming else "unary") + "_" + ("stream" if proto.server_streaming else "unary")
    make = getattr(grpc, f"{shape}_rpc_method_handler")
    read = factory.GetPrototype(method.input_type).FromString
    return make(ANSWERS[method.full_name], request_deserializer=read, response_serializer=lambda one: one.SerializeToString())


def main():
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=32), options=[("grpc.so_reuseport", 0)])
    for name in ("shop.v1.Catalog", "catalogService"):
        add(server, pool.FindServiceByName(name), handler)
    if len(sys.argv) > 2:
        reflecting.add(server, *sys.argv[2:4])
    serve(server)


main()
