"""Bodies of JSON for a type of message, with at most one thing in each that is not as it should be."""

import json

from google.protobuf.descriptor import FieldDescriptor as F

from messages import is_map
from values import kind_of, odd_json, quoted, texts, wrapped

DEEPEST = 3


class Literal(str):
    """What stands in the text as it is."""


class Members(list):
    """An object: pairs of names and values."""


class Bodies:
    def __init__(self, pool, dice):
        self.pool, self.dice = pool, dice
        # Where something else could be put: what it is for, the list that it stands in, and where.
        self.slots, self.objects = [], []

    def body(self, kind, odd):
        """A body of this type, and what is odd about it, if that is wanted."""
        self.slots, self.objects = [], []
        holder = [self.message(self.pool.FindMessageTypeByName(kind), 0)]
        tag = self.spoiled() if odd else None
        return self.text(holder[0]), tag

    def part(self, field, odd):
        """The same for the value of one field."""
        self.slots, self.objects = [], []
        holder = [None]
        holder[0] = self.field(field, 0, holder, 0)
        tag = self.spoiled() if odd else None
        return self.text(holder[0]), tag

    # Right ones.

    def message(self, kind, depth):
        members = Members()
        for field in kind.fields:
            if self.dice.random() > (0.2 if depth == 0 else 0.35) or (depth >= DEEPEST and field.message_type):
                continue
            if field.containing_oneof and any(field.containing_oneof is other for other, _ in self.chosen(members, kind)):
                continue
            pair = [self.name(field), None]
            members.append(pair)
            pair[1] = self.field(field, depth, pair, 1)
        self.objects.append((kind, members))
        return members

    def chosen(self, members, kind):
        names = {name for name, _ in members}
        return [(one.containing_oneof, one) for one in kind.fields if {one.name, one.json_name} & names and one.containing_oneof]

    def name(self, field):
        return self.dice.choice([field.name, field.json_name, field.json_name])

    def field(self, field, depth, holder, at):
        if is_map(field):
            self.slots.append(("map", holder, at))
            return self.entries(field, depth)
        if field.label == F.LABEL_REPEATED:
            self.slots.append(("list", holder, at))
            elements = []
            for number in range(self.dice.randrange(4)):
                elements.append(None)
                elements[number] = self.value(field, depth, elements, number)
            return elements
        return self.value(field, depth, holder, at)

    def entries(self, field, depth):
        keys, values = field.message_type.fields_by_name["key"], field.message_type.fields_by_name["value"]
        entries, names = Members(), set()
        for _ in range(self.dice.randrange(3)):
            name = self.dice.choice(texts(kind_of(keys), self.dice))
            if name not in names:
                names.add(name)
                pair = [name, None]
                entries.append(pair)
                pair[1] = self.value(values, depth + 1, pair, 1)
                self.slots.append((f"key {kind_of(keys)}", pair, 0))
        return entries

    def value(self, field, depth, holder, at):
        kind = kind_of(field)
        self.slots.append((f"{kind} wrapper" if wrapped(field) else kind, holder, at))
        if kind == "message":
            return self.message(field.message_type, depth + 1)
        if kind == "null":
            return Literal("null")
        if kind == "Value":
            return self.anything(depth)
        if kind == "Struct":
            return Members([self.some_text(), self.anything(depth)] for _ in range(self.dice.randrange(1, 3)))
        if kind == "ListValue":
            return [self.anything(depth) for _ in range(self.dice.randrange(3))]
        if kind == "Any":
            return self.typed(depth)
        text = self.dice.choice(texts(kind, self.dice))
        if kind in ("string", "bytes", "Timestamp", "Duration", "FieldMask"):
            return text
        if kind == "enum":
            return Literal(text if text.isdigit() else quoted(text))
        return Literal(text if kind == "bool" or self.dice.random() < 0.6 else quoted(text))

    def some_text(self):
        return self.dice.choice(texts("string", self.dice))

    def anything(self, depth):
        kind = self.dice.randrange(6 if depth < DEEPEST else 4)
        if kind == 0:
            return Literal("null")
        if kind == 1:
            return Literal(self.dice.choice(["0", "1", "-1.5", "1e3", "9007199254740991"]))
        if kind == 2:
            return self.some_text()
        if kind == 3:
            return Literal(self.dice.choice(["true", "false"]))
        inner = [self.anything(depth + 1) for _ in range(self.dice.randrange(3))]
        if kind == 4:
            return inner
        return Members([f"m{number}{self.some_text()}", one] for number, one in enumerate(inner))

    def typed(self, depth):
        which = self.dice.randrange(3)
        if which == 0:
            return Members([["@type", "type.googleapis.com/google.protobuf.Duration"], ["value", "1.5s"]])
        if which == 1:
            return Members([["@type", "type.googleapis.com/google.protobuf.Struct"], ["value", Members([["a", Literal("1")]])]])
        inner = self.message(self.pool.FindMessageTypeByName("shop.v1.Inside"), max(depth + 1, DEEPEST))
        return Members([["@type", "type.googleapis.com/shop.v1.Inside"], *inner])

    # One that is not.

    def spoiled(self):
        """Puts something odd into it, and says what."""
        objects = [one for one in self.objects if one[1]]
        if objects and self.dice.random() < 0.15:
            return self.spoiled_object(*self.dice.choice(objects))
        if not self.slots:
            return None
        kind, holder, at = self.dice.choice(self.slots)
        if kind == "list":
            odd = self.dice.choice(["null", "{}", "1", '"x"', "[null]", "[[]]", "[1,]", "[,]", "[1 2]"])
        elif kind == "map":
            odd = self.dice.choice(["null", "[]", "1", '{"a":null}', '{"":1}', '{"1":{},"1":{}}'])
        elif kind.startswith("key "):
            odd = self.dice.choice(["01", " 1", "1.0", "x", "", "TRUE", "1e2", "-0", "+1"])
            holder[at] = odd
            return f"{kind}: {odd}"
        else:
            odd = self.dice.choice(odd_json(kind.split(" ")[0]))
        holder[at] = Literal(odd)
        return f"{kind}: {odd}"

    def spoiled_object(self, kind, members):
        which = self.dice.choice(["unknown", "twice", "both spellings", "case", "null", "oneof"])
        name, value = self.dice.choice(members)
        field = next(one for one in kind.fields if name in (one.name, one.json_name))
        if which == "unknown":
            members.append([self.dice.choice(["nothing", "", "@type", "text2", "__proto__", "1", "[shop.v1.ext]"]), Literal("1")])
        elif which == "twice":
            members.append([name, value])
        elif which == "both spellings":
            if field.name == field.json_name:
                return None
            members.append([field.json_name if name == field.name else field.name, value])
        elif which == "case":
            members[self.dice.randrange(len(members))][0] = field.name.upper()
        elif which == "null":
            members.append([self.dice.choice([one.json_name for one in kind.fields]), Literal("null")])
        else:
            if kind.name != "Everything":
                return None
            members += [["chosenText", "a"], ["chosenNumber", Literal("1")]]
        return f"object: {which}"

    # As a text.

    def text(self, node):
        space = self.dice.choice(["", "", "", " ", "\n", "\r\n\t"])
        return space + self.written(node, space) + space

    def written(self, node, space):
        if isinstance(node, Literal):
            return str(node)
        if isinstance(node, Members):
            members = (f"{self.string(name)}{space}:{space}{self.written(value, space)}" for name, value in node)
            return "{" + f"{space},{space}".join(members) + "}"
        if isinstance(node, list):
            return "[" + f"{space},{space}".join(self.written(one, space) for one in node) + "]"
        return self.string(node)

    def string(self, text):
        return json.dumps(text, ensure_ascii=self.dice.random() < 0.5)


# What a text of JSON as a whole may be that is none, or an unusual one.
def torn(text, dice):
    ways = {
        "cut off": text[: dice.randrange(1, len(text))] if len(text) > 1 else "",
        "garbage behind": text + dice.choice(["x", "}", "{}", ",", "null", "\0"]),
        "trailing comma": text.rstrip()[:-1] + ",}",
        "comment": "/* c */" + text,
        "line comment": "// c\n" + text,
        "single quotes": text.replace('"', "'"),
        "byte order mark": "\ufeff" + text,
        "nothing": "",
        "white space": "  \n",
        "null": "null",
        "a list": f"[{text}]",
        "a text": json.dumps(text),
        "deep": '{"inside":' + '{"deeper":' * 30 + "{}" + "}" * 31,
        "very deep": '{"inside":' + '{"deeper":' * 120 + "{}" + "}" * 121,
        "form feed": "\f" + text,
        "no-break space": "\u00a0" + text,
        "unquoted name": "{text:1}",
    }
    which = dice.choice(list(ways))
    return ways[which], which
