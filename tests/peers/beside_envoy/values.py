"""Values of each kind: as JSON, and as the texts of paths and queries. Some are right, some nearly."""

from google.protobuf.descriptor import FieldDescriptor as F

RANGES = {
    "int32": (-(2**31), 2**31 - 1),
    "int64": (-(2**63), 2**63 - 1),
    "uint32": (0, 2**32 - 1),
    "uint64": (0, 2**64 - 1),
}
KINDS = {
    F.TYPE_INT32: "int32", F.TYPE_SINT32: "int32", F.TYPE_SFIXED32: "int32",
    F.TYPE_INT64: "int64", F.TYPE_SINT64: "int64", F.TYPE_SFIXED64: "int64",
    F.TYPE_UINT32: "uint32", F.TYPE_FIXED32: "uint32",
    F.TYPE_UINT64: "uint64", F.TYPE_FIXED64: "uint64",
    F.TYPE_DOUBLE: "double", F.TYPE_FLOAT: "float", F.TYPE_BOOL: "bool", F.TYPE_STRING: "string", F.TYPE_BYTES: "bytes",
}  # fmt: skip
WELL_KNOWN = "google.protobuf."
WRAPPED = {
    "DoubleValue": "double", "FloatValue": "float", "Int64Value": "int64", "UInt64Value": "uint64", "Int32Value": "int32",
    "UInt32Value": "uint32", "BoolValue": "bool", "StringValue": "string", "BytesValue": "bytes",
}  # fmt: skip


def kind_of(field):
    """What a value of this field is, or of one of its elements: `int32`, `colour`, `Timestamp`, `message`."""
    if field.type == F.TYPE_ENUM:
        return "null" if field.enum_type.name == "NullValue" else "enum"
    if field.type != F.TYPE_MESSAGE:
        return KINDS[field.type]
    name = field.message_type.full_name
    known = name[len(WELL_KNOWN) :] if name.startswith(WELL_KNOWN) else ""
    return WRAPPED.get(known) or known or "message"


def wrapped(field):
    return field.type == F.TYPE_MESSAGE and field.message_type.name in WRAPPED


# Texts that stand for a value where there is nothing but text.
TEXTS = {
    "double": ["0", "1.5", "-2.25", "1e3", "100"],
    "float": ["0", "1.5", "-2.25", "1e3", "100"],
    "bool": ["true", "false"],
    "enum": ["RED", "GREEN", "1", "2", "0"],
    "bytes": ["AAEC", "aGk=", "-_8=", "+/8="],
    "Timestamp": ["2026-01-31T12:00:00Z", "1970-01-01T00:00:00.5Z", "2026-01-31T12:00:00.000000001+02:00"],
    "Duration": ["1s", "-1.5s", "0.000000001s", "0s"],
    "FieldMask": ["a", "a,unitPrice", "inside.deeperName"],
}
ODD_WHOLE = ["1.0", "1e2", "1E2", "1.5", "+1", "-0", "01", "1.", ".5", "0x1", " 1", "1 ", "", "-", "true", "null", "\u0661", "1_0", "1e-1"]
ODD_REAL = ["NaN", "nan", "inf", "Infinity", "-Infinity", "+Infinity", "1e400", "-1e400", "1e-400", "1.", ".5", "+1", "0x1", "-0.0", "-0", "",
            "1d", "1e", "infinity", "3.5e38", "3.4028235e38", "1e39", " 1", "1,5"]  # fmt: skip
ODD_TEXTS = {
    "double": ODD_REAL,
    "float": ODD_REAL,
    "bool": ["True", "TRUE", "1", "0", "yes", "", "t", "tru", " true"],
    "enum": ["red", "Red", "NOPE", "77", "-1", "2147483648", "", "1.0", "RED ", "COLOUR_UNSPECIFIED"],
    "bytes": ["a", "ab", "abc", "a===", "AB==", "AAE", "@@", "AA=", "A A=", "", "+_8="],
    "string": ["\x01", "\u2028", "\U0001f980", "%", "+", "a+b", "\"", "\\"],
    "Timestamp": ["2026-01-31T12:00:00", "2026-02-30T12:00:00Z", "2026-1-31T12:00:00Z", "2026-01-31 12:00:00Z", "2026-01-31t12:00:00z",
                  "10000-01-01T00:00:00Z", "0000-01-01T00:00:00Z", "0001-01-01T00:00:00Z", "0001-01-01T00:00:00+00:01",
                  "9999-12-31T23:59:59.999999999Z", "9999-12-31T23:59:59-00:01", "2026-01-31T12:00:60Z", "2026-01-31T24:00:00Z",
                  "2026-01-31T12:00:00.0000000001Z", "2026-01-31T12:00:00.Z", "2026-01-31T12:00:00,5Z", "2026-01-31T12:00:00+0200",
                  "2026-01-31T12:00:00+24:00", "2026-01-31T12:00Z", "", "1", "2026-02-29T00:00:00Z", "2024-02-29T00:00:00Z"],
    "Duration": ["1", "1.s", ".5s", "+1s", "1.0000000001s", "315576000000s", "315576000001s", "-315576000000.5s", "1 s", "--1s", "1e3s", "",
                 "s", "1S", "1m", "-0.5s", "-0s", "1.5 s", "0.0000000019s"],
    "FieldMask": ["", "a,,b", "a b", "unit_price", "a.", ".a", "A", "a,", "*", "a(b,c)", "aB1", "a\u00e9"],
}  # fmt: skip


def texts(kind, dice):
    """Some right texts."""
    if kind in RANGES:
        low, high = RANGES[kind]
        return [str(dice.choice([low, high, 0, 1, dice.randint(low, high), dice.randint(max(low, -99), 99)]))]
    if kind == "string":
        return ["".join(dice.choice("abzAZ09 -_.~!$&'()*,;=@/?#[]%\u00e9\U0001f980\"<>\\^`{|}") for _ in range(dice.randrange(1, 9)))]
    return TEXTS[kind]


def odd_texts(kind):
    """Those that are nearly right, or right in an unusual way."""
    if kind in RANGES:
        low, high = RANGES[kind]
        return [*ODD_WHOLE, str(low - 1), str(high + 1), f"{high}.0", f"{low}.0", "9007199254740993.0"]
    return ODD_TEXTS[kind]


# The same as JSON. Texts above stand in it as they are, and in quotation marks.
ODD_JSON = {
    "double": ["NaN", "Infinity", "-Infinity"],
    "float": ["NaN", "Infinity", "-Infinity"],
    "bool": ['"true"', '"false"', '"1"'],
    "enum": ['"1"', '"2.0"', "1.0", "1.5", "[]", "{}", "true"],
    "null": ["null", "0", '"NULL_VALUE"', '"NOPE"', "1", "{}"],
    "bytes": ["1", "[]", "true", '"AAEC\\n"', '"\\u00e9"'],
    "string": ["1", "true", "[]", "{}", '"\\ud800"', '"\\udc00\\ud800"', '"\\u0000"', '"\\/"', '"\\x"', '"\\u00"', '"\x01"', '"\t"', '"a'],
    "Timestamp": ["1", "{}", '{"seconds":1}', "[]"],
    "Duration": ["1", "1.5", "{}", '{"seconds":1}'],
    "FieldMask": ["1", "[]", '["a"]', "{}", '{"paths":["a"]}'],
    "Struct": ["[]", "1", '"x"', '{"fields":{}}', '{"":null}', '{"a":1,"b":[{}]}'],
    "Value": ["null", "[null]", '{"a":null}', "1e400", "-0.0", '{"nullValue":0}', '""'],
    "ListValue": ["{}", "1", "[[],[[]]]", "[null]", '{"values":[]}'],
    "Any": [
        "{}", '{"@type":""}', '{"@type":"shop.v1.Inside"}', '{"@type":"/shop.v1.Inside"}', '{"@type":"x/shop.v1.Inside","name":"n"}',
        '{"name":"n","@type":"type.googleapis.com/shop.v1.Inside"}', '{"@type":"type.googleapis.com/no.Such"}', '{"name":"n"}',
        '{"@type":"type.googleapis.com/shop.v1.Inside","nothing":1}', '{"@type":"type.googleapis.com/shop.v1.Inside","value":{}}',
        '{"@type":"type.googleapis.com/google.protobuf.Duration"}', '{"@type":"type.googleapis.com/google.protobuf.Duration","value":"x"}',
        '{"@type":"type.googleapis.com/google.protobuf.Duration","value":"1s","more":1}', '{"@type":"type.googleapis.com/google.protobuf.Empty"}',
        '{"@type":"type.googleapis.com/google.protobuf.Empty","value":{}}', '{"@type":1}', "[]", "1",
        '{"@type":"type.googleapis.com/google.protobuf.Any","value":{"@type":"type.googleapis.com/shop.v1.Inside","name":"n"}}',
        '{"@type":"type.googleapis.com/google.protobuf.Value","value":null}',
        '{"@type":"type.googleapis.com/google.protobuf.Int64Value","value":"7"}',
    ],
    "message": ["[]", "1", '"x"', "true", '{"nothing":1}', '{"name":null}', '{"number":"x"}', "{}"],
}  # fmt: skip


def quoted(text):
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def odd_json(kind):
    """Literals of JSON, or of what is none, which are nearly a value of that kind."""
    odd = [*ODD_JSON.get(kind, []), "null"]
    if kind in RANGES or kind in ("double", "float", "bool", "enum"):
        plain = [text for text in odd_texts(kind) if text.strip() and text.isascii()]
        odd += plain
    if kind in ODD_TEXTS or kind in RANGES:
        odd += [quoted(text) for text in odd_texts(kind)]
    if kind in RANGES:
        odd += ["true", "[1]", "{}"]
    return list(dict.fromkeys(odd))
