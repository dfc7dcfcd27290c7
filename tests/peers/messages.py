"""Messages that nobody chose: of any type, out of a seed."""

import string

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.descriptor import FieldDescriptor as F

LETTERS = string.ascii_letters + string.digits + " \"\\/\n\t\0\x1f\x7f<>&'\u00e9\u2028\ud7ff\ue000\U0001f980%+_.-"
# What an `Any` may hold.
INNER = [
    "shop.v1.Inside", "google.protobuf.Duration", "google.protobuf.Int64Value", "google.protobuf.Struct", "google.protobuf.Empty",
]  # fmt: skip


def pool_of(path):
    """What a set of descriptors declares."""
    pool = descriptor_pool.DescriptorPool()
    with open(path, "rb") as file:
        for one in descriptor_pb2.FileDescriptorSet.FromString(file.read()).file:
            pool.Add(one)
    return pool


def is_map(field):
    return bool(field.message_type) and field.message_type.GetOptions().map_entry


class Messages:
    """Types by name, and messages of them."""

    def __init__(self, pool, dice):
        self.pool, self.dice, self.factory = pool, dice, message_factory.MessageFactory(pool)

    def kind(self, name):
        return self.factory.GetPrototype(self.pool.FindMessageTypeByName(name))

    def made(self, name):
        message = self.kind(name)()
        self.fields(message, 0)
        return message

    def text(self):
        return "".join(self.dice.choice(LETTERS) for _ in range(self.dice.randrange(12)))

    def whole(self, low, high):
        dice = self.dice
        return dice.choice([low, high, 0, 1, low + 1, high - 1, dice.randint(low, high), dice.randint(max(low, -99), 99)])

    def real(self):
        # Not -0.0, which prost-reflect takes for the default and leaves out.
        odd = [0.0, 1.0, -1.5, 0.1, 1e300, 5e-324, 1e21, 1e-7, 123456789.0, 2.0**53, float("inf"), float("-inf"), float("nan")]
        return self.dice.choice([*odd, self.dice.uniform(-1e6, 1e6)])

    def finite(self):
        return self.dice.choice([0.0, 1.0, -1.5, 0.1, 1e300, 1e21, self.dice.uniform(-1e6, 1e6)])

    def scalar(self, field):
        dice, kind = self.dice, field.cpp_type
        if kind == F.CPPTYPE_INT32:
            return self.whole(-(2**31), 2**31 - 1)
        if kind == F.CPPTYPE_INT64:
            return self.whole(-(2**63), 2**63 - 1)
        if kind == F.CPPTYPE_UINT32:
            return self.whole(0, 2**32 - 1)
        if kind == F.CPPTYPE_UINT64:
            return self.whole(0, 2**64 - 1)
        if kind == F.CPPTYPE_DOUBLE:
            return self.real()
        if kind == F.CPPTYPE_FLOAT:
            return dice.choice([0.0, 1.5, -0.25, 3.0, 16777216.0, float("inf"), float("nan")])
        if kind == F.CPPTYPE_BOOL:
            return dice.random() < 0.5
        if kind == F.CPPTYPE_ENUM:
            return 0 if field.enum_type.name == "NullValue" else dice.choice([0, 1, 2, 7, -1])
        if field.type == F.TYPE_BYTES:
            return bytes(dice.randrange(256) for _ in range(dice.randrange(9)))
        return self.text()

    def value(self, message, depth):
        """A `google.protobuf.Value`."""
        kind = self.dice.randrange(6 if depth < 4 else 4)
        if kind == 0:
            message.null_value = 0
        elif kind == 1:
            message.number_value = self.finite()
        elif kind == 2:
            message.string_value = self.text()
        elif kind == 3:
            message.bool_value = self.dice.random() < 0.5
        elif kind == 4:
            self.structure(message.struct_value, depth + 1)
        else:
            self.listed(message.list_value, depth + 1)

    def structure(self, message, depth):
        message.SetInParent()
        for _ in range(self.dice.randrange(3)):
            self.value(message.fields[self.text()], depth)

    def listed(self, message, depth):
        message.SetInParent()
        for _ in range(self.dice.randrange(3)):
            self.value(message.values.add(), depth)

    def fill(self, message, depth=0):
        dice, name = self.dice, message.DESCRIPTOR.full_name
        message.SetInParent()
        if name == "google.protobuf.Timestamp":
            message.seconds = self.whole(-62135596800, 253402300799)
            message.nanos = dice.choice([0, 5_000_000, 120_000, 7, 999_999_999])
        elif name == "google.protobuf.Duration":
            message.seconds = self.whole(-315576000000 + 1, 315576000000 - 1)
            nanos = dice.choice([0, 5_000_000, 120_000, 7, 999_999_999])
            message.nanos = -nanos if message.seconds < 0 else nanos
        elif name == "google.protobuf.FieldMask":
            message.paths.extend(dice.sample(["a", "unit_price", "inside.deeper_name", "x.y.z"], dice.randrange(4)))
        elif name == "google.protobuf.Struct":
            self.structure(message, depth)
        elif name == "google.protobuf.Value":
            self.value(message, depth)
        elif name == "google.protobuf.ListValue":
            self.listed(message, depth)
        elif name == "google.protobuf.Any":
            if dice.random() < 0.2:
                return
            made = self.kind(dice.choice(INNER))()
            self.fill(made, depth + 1)
            message.Pack(made, deterministic=True)
        else:
            self.fields(message, depth)

    def fields(self, message, depth):
        for field in message.DESCRIPTOR.fields:
            if self.dice.random() > (0.35 if depth == 0 else 0.25):
                continue
            if is_map(field):
                self.entries(getattr(message, field.name), field, depth)
            elif field.label == F.LABEL_REPEATED:
                for _ in range(self.dice.randrange(4)):
                    if not field.message_type:
                        getattr(message, field.name).append(self.scalar(field))
                    elif depth < 4:
                        self.fill(getattr(message, field.name).add(), depth + 1)
            elif not field.message_type:
                setattr(message, field.name, self.scalar(field))
            elif depth < 4:
                self.fill(getattr(message, field.name), depth + 1)

    def entries(self, entries, field, depth):
        keys, values = field.message_type.fields_by_name["key"], field.message_type.fields_by_name["value"]
        for _ in range(self.dice.randrange(4)):
            if values.message_type:
                self.fill(entries[self.scalar(keys)], depth + 1)
            else:
                entries[self.scalar(keys)] = self.scalar(values)
