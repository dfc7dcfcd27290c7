"""Python's own `json_format`, to compare with: prints one line of JSON.

Arguments: a set of descriptors, a seed, how many messages of `shop.v1.Everything` to make up, and a file with a list of texts to read as such
messages. Of each message its bytes and its JSON, of each text its JSON, or null if it is none.
"""

import json
import random
import string
import sys

from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory
from google.protobuf.descriptor import FieldDescriptor as F

pool = descriptor_pool.DescriptorPool()
with open(sys.argv[1], "rb") as file:
    for one in descriptor_pb2.FileDescriptorSet.FromString(file.read()).file:
        pool.Add(one)
factory = message_factory.MessageFactory(pool)
Everything = factory.GetPrototype(pool.FindMessageTypeByName("shop.v1.Everything"))
Inside = factory.GetPrototype(pool.FindMessageTypeByName("shop.v1.Inside"))
dice = random.Random(int(sys.argv[2]))

LETTERS = string.ascii_letters + string.digits + " \"\\/\n\t\0\x1f\x7f<>&'\u00e9\u2028\ud7ff\ue000\U0001f980%+_.-"


def text():
    return "".join(dice.choice(LETTERS) for _ in range(dice.randrange(12)))


def whole(low, high):
    return dice.choice([low, high, 0, 1, low + 1, high - 1, dice.randint(low, high), dice.randint(max(low, -99), 99)])


def real():
    # Not -0.0, which prost-reflect takes for the default and leaves out.
    odd = [0.0, 1.0, -1.5, 0.1, 1e300, 5e-324, 1e21, 1e-7, 123456789.0, 2.0**53, float("inf"), float("-inf"), float("nan")]
    return dice.choice([*odd, dice.uniform(-1e6, 1e6)])


def finite():
    return dice.choice([0.0, 1.0, -1.5, 0.1, 1e300, 1e21, dice.uniform(-1e6, 1e6)])


def scalar(field):
    kind = field.cpp_type
    if kind == F.CPPTYPE_INT32:
        return whole(-(2**31), 2**31 - 1)
    if kind == F.CPPTYPE_INT64:
        return whole(-(2**63), 2**63 - 1)
    if kind == F.CPPTYPE_UINT32:
        return whole(0, 2**32 - 1)
    if kind == F.CPPTYPE_UINT64:
        return whole(0, 2**64 - 1)
    if kind == F.CPPTYPE_DOUBLE:
        return real()
    if kind == F.CPPTYPE_FLOAT:
        return dice.choice([0.0, 1.5, -0.25, 3.0, 16777216.0, float("inf"), float("nan")])
    if kind == F.CPPTYPE_BOOL:
        return dice.random() < 0.5
    if kind == F.CPPTYPE_ENUM:
        return 0 if field.enum_type.name == "NullValue" else dice.choice([0, 1, 2, 7, -1])
    if field.type == F.TYPE_BYTES:
        return bytes(dice.randrange(256) for _ in range(dice.randrange(9)))
    return text()


def value(message, depth):
    """A `google.protobuf.Value`."""
    kind = dice.randrange(6 if depth < 4 else 4)
    if kind == 0:
        message.null_value = 0
    elif kind == 1:
        message.number_value = finite()
    elif kind == 2:
        message.string_value = text()
    elif kind == 3:
        message.bool_value = dice.random() < 0.5
    elif kind == 4:
        structure(message.struct_value, depth + 1)
    else:
        listed(message.list_value, depth + 1)


def structure(message, depth):
    message.SetInParent()
    for _ in range(dice.randrange(3)):
        value(message.fields[text()], depth)


def listed(message, depth):
    message.SetInParent()
    for _ in range(dice.randrange(3)):
        value(message.values.add(), depth)


def fill(message, depth=0):
    name = message.DESCRIPTOR.full_name
    message.SetInParent()
    if name == "google.protobuf.Timestamp":
        message.seconds = whole(-62135596800, 253402300799)
        message.nanos = dice.choice([0, 5_000_000, 120_000, 7, 999_999_999])
    elif name == "google.protobuf.Duration":
        message.seconds = whole(-315576000000 + 1, 315576000000 - 1)
        nanos = dice.choice([0, 5_000_000, 120_000, 7, 999_999_999])
        message.nanos = -nanos if message.seconds < 0 else nanos
    elif name == "google.protobuf.FieldMask":
        message.paths.extend(dice.sample(["a", "unit_price", "inside.deeper_name", "x.y.z"], dice.randrange(4)))
    elif name == "google.protobuf.Struct":
        structure(message, depth)
    elif name == "google.protobuf.Value":
        value(message, depth)
    elif name == "google.protobuf.ListValue":
        listed(message, depth)
    elif name == "google.protobuf.Any":
        if dice.random() < 0.2:
            return
        inner = dice.choice(["shop.v1.Inside", "google.protobuf.Duration", "google.protobuf.Int64Value", "google.protobuf.Struct"])
        made = factory.GetPrototype(pool.FindMessageTypeByName(inner))()
        fill(made, depth + 1)
        message.Pack(made, deterministic=True)
    else:
        fields(message, depth)


def fields(message, depth):
    for field in message.DESCRIPTOR.fields:
        if dice.random() > (0.35 if depth == 0 else 0.25):
            continue
        if field.message_type and field.message_type.GetOptions().map_entry:
            keys, values = field.message_type.fields_by_name["key"], field.message_type.fields_by_name["value"]
            for _ in range(dice.randrange(4)):
                entries = getattr(message, field.name)
                if values.message_type:
                    fill(entries[scalar(keys)], depth + 1)
                else:
                    entries[scalar(keys)] = scalar(values)
        elif field.label == F.LABEL_REPEATED:
            for _ in range(dice.randrange(4)):
                if field.message_type:
                    if depth < 4:
                        fill(getattr(message, field.name).add(), depth + 1)
                else:
                    getattr(message, field.name).append(scalar(field))
        elif field.message_type:
            if depth < 4:
                fill(getattr(message, field.name), depth + 1)
        else:
            setattr(message, field.name, scalar(field))


def read(body):
    try:
        return json_format.MessageToJson(json_format.Parse(body, Everything(), descriptor_pool=pool), descriptor_pool=pool)
    except json_format.ParseError:
        return None


made = []
for _ in range(int(sys.argv[3])):
    message = Everything()
    fields(message, 0)
    written = json_format.MessageToJson(message, descriptor_pool=pool)
    made.append({"bytes": message.SerializeToString(deterministic=True).hex(), "json": written})
with open(sys.argv[4], encoding="utf-8") as file:
    texts = [read(body) for body in json.load(file)]
print(json.dumps({"made": made, "read": texts}))
