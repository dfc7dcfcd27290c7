"""The cases: requests made of a seed, honest ones and nearly honest ones, and what the service shall answer."""

import urllib.parse

from google.protobuf.descriptor import FieldDescriptor as F

from bodies import Bodies, torn
from messages import Messages, is_map
from values import kind_of, odd_texts, texts

EVERYTHING = "shop.v1.Everything"
JSON = "application/json"
# The rules whose body is one field, and which.
PARTS = {
    "/e/inside/t": "inside", "/e/texts": "texts", "/e/insides": "insides", "/e/structure": "structure", "/e/value": "value",
    "/e/list": "list", "/e/any": "any", "/e/time": "time", "/e/by_name": "by_name", "/e/number": "an_int64", "/e/colour": "colour",
    "/e/wrapped": "wrapped_int64",
}  # fmt: skip
# The rules whose answer is one field, and its name in JSON.
CUTS = {
    "/e/cut/inside": "inside", "/e/cut/texts": "texts", "/e/cut/insides": "insides", "/e/cut/by_name": "byName", "/e/cut/text": "text",
    "/e/cut/number": "anInt64", "/e/cut/colour": "colour", "/e/cut/time": "time", "/e/cut/structure": "structure",
}  # fmt: skip
# The rules whose path has a value, of which kind.
SEGMENTS = {
    "text": "string", "int32": "int32", "uint64": "uint64", "double": "double", "bool": "bool", "bytes": "bytes", "colour": "enum",
    "time": "Timestamp", "span": "Duration", "mask": "FieldMask", "wrapped": "int64", "choice": "string",
}  # fmt: skip
# What a segment of a path may be, as it is written.
PIECES = ["a", "shelf-1", "a.b", "x~y_z", "%61", "%2F", "%2f", "a%2Fb", "%20", "+", "a+b", "%2B", "%25", "%252F", ":", "a:b", "%3A", "a%3Ab", "@",
          "!$&'()*,;=", "%C3%A9", "%c3%a9", "%F0%9F%A6%80", "%FF", "%C0%AF", "%00", "%", "%4", "%zz", "%5C", "%3F", "%23", "%2E", "%2e%2e", ".",
          "..", "", "%7E", "%22", "~", "*", "**", "**", "{a}", "a;b=c", "a=b", "%0A", "read", "a:read", "a:move"]  # fmt: skip
PLAIN = ["a", "shelf-1", "x~y_z", "7", "a.b"]


def plain(pair):
    """The first name of a parameter, however it is spelled."""
    return urllib.parse.unquote(pair).partition("=")[0].partition(".")[0].replace("_", "").lower()


class Cases:
    def __init__(self, pool, dice):
        self.pool, self.dice = pool, dice
        self.bodies, self.messages = Bodies(pool, dice), Messages(pool, dice)
        self.everything = pool.FindMessageTypeByName(EVERYTHING)

    def case(self, number):
        makers = [
            (self.body, 26), (self.part, 10), (self.query, 24), (self.segment, 10), (self.path, 12), (self.answer, 10), (self.cut, 3),
            (self.failure, 5), (self.public, 12), (self.stream, 2), (self.raw, 2), (self.head, 4),
        ]  # fmt: skip
        make = self.dice.choices([one for one, _ in makers], [weight for _, weight in makers])[0]
        case = {"number": number, "kind": make.__name__, "tag": None, "method": "GET", "headers": {}, "body": b""}
        return case | make()

    def one_in(self, many):
        return self.dice.randrange(many) == 0

    def json(self, text, **more):
        return {"method": "POST", "headers": {"content-type": JSON}, "body": text.encode("utf-8", "surrogatepass"), "text": text} | more

    def body(self):
        target = self.dice.choice(["/e/whole", "/e/whole", "/e/whole", "/every.v1.Every/Bare"])
        text, tag = self.bodies.body(EVERYTHING, odd=not self.one_in(3))
        if tag is None and self.one_in(3):
            text, tag = torn(text, self.dice)
            tag = f"text: {tag}"
        method = "REPORT" if target == "/e/whole" and self.one_in(12) else "POST"
        return self.json(text, target=target, tag=tag) | {"method": method}

    def part(self):
        target = self.dice.choice(list(PARTS))
        text, tag = self.bodies.part(self.everything.fields_by_name[PARTS[target]], odd=not self.one_in(3))
        if tag is None and self.one_in(2):
            text, tag = torn(text, self.dice)
            tag = f"text: {tag}"
        return self.json(text, target=target, tag=tag)

    # Queries.

    def leaves(self, kind, before, depth):
        """Fields that a query can name, by their names: each a pair of path and field."""
        for field in kind.fields:
            path = [*before, field]
            if is_map(field):
                continue
            known = kind_of(field)
            if known == "message":
                if depth < 2 and field.label != F.LABEL_REPEATED:
                    yield from self.leaves(field.message_type, path, depth + 1)
            elif known not in ("Struct", "Value", "ListValue", "Any", "null"):
                yield path

    def named(self, path):
        return ".".join(self.dice.choice([field.name, field.json_name]) for field in path)

    def escaped(self, text):
        safe = self.dice.choice(["", "/:,.~-_!*'()@$;?"])
        quote = self.dice.choice([urllib.parse.quote, urllib.parse.quote_plus])
        return quote(text, safe=safe)

    def query(self):
        leaves = list(self.leaves(self.everything, [], 0))
        tag, pairs, seen, groups = None, [], set(), set()
        for _ in range(self.dice.randrange(1, 5)):
            path = self.dice.choice(leaves)
            group = path[0].containing_oneof
            if tuple(path) in seen or group in groups and group:
                continue
            seen.add(tuple(path))
            groups.add(group)
            kind = kind_of(path[-1])
            for _ in range(self.dice.randrange(1, 3) if path[-1].label == F.LABEL_REPEATED else 1):
                pairs.append(f"{self.named(path)}={self.escaped(self.dice.choice(texts(kind, self.dice)))}")
        if not self.one_in(3):
            tag, odd = self.odd_pair([path for path in leaves if tuple(path) not in seen])
            # Of what it names nothing else is said.
            said = {plain(pair) for pair in odd.split("&")}
            said |= {"other", "oddname2x"} if said & {"other", "oddname2x"} else set()
            pairs = [pair for pair in pairs if plain(pair) not in said]
            pairs.insert(self.dice.randrange(len(pairs) + 1), odd)
        method = "DELETE" if self.one_in(10) else "GET"
        return {"method": method, "target": "/e/query?" + "&".join(pairs), "tag": tag}

    def odd_pair(self, leaves):
        if self.one_in(2):
            path = self.dice.choice(leaves)
            kind = kind_of(path[-1])
            text = self.dice.choice(odd_texts(kind))
            return f"query {kind}: {text}", f"{self.named(path)}={self.escaped(text)}"
        odd = self.dice.choice([
            "nothing=1", "nothing", "inside=1", "inside=", "inside={}", "inside.nothing=1", "inside.=1", ".inside=1", "inside..name=1", "insides.name=1",
            "insides=1", "by_name.a=1", "by_name=1", "by_name[a]=1", "byTruth.true=x", "text.x=1", "structure.a=1", "structure.fields=1",
            "value=1", "any.type_url=x", "time.seconds=1", "span.nanos=1", "mask.paths=a", "wrappedInt64.value=1", "list=1",
            "text=a&text=b", "anInt32=1&an_int32=2", "chosenText=a&chosenNumber=1", "chosenNothing=NULL_VALUE", "TEXT=a", "Text=a",
            "anint32=1", "&&", "=1", "text", "text=", "text==a", "text=a=b", "a_bool", "an_int32", "texts[]=a", "texts[0]=a", "texts=a,b",
            "text=%FF", "text=%", "text=%zz", "text=%C0%AF", "text=%00", "t%65xt=a", "inside%2Ename=a", "text=a;b", "text=a#b",
            "$alt=json", "alt=json", "key=x", "inside.deeper.deeper.deeper.name=x", "maybe=", "numbers=1&numbers=x", "odd_Name_2x=a", "other=a",
            "oddName2x=a", "inside.many.name=x", "wrapped_many=1", "colours=RED&colours=1", "text=a%26b", "text=%E2%82", "te+xt=a",
        ])  # fmt: skip
        return f"pair: {odd}", odd

    # Paths.

    def segment(self):
        rule = self.dice.choice(list(SEGMENTS))
        kind = SEGMENTS[rule]
        odd = self.one_in(2)
        text = self.dice.choice(odd_texts(kind) if odd else texts(kind, self.dice))
        tag = f"segment {kind}: {text}" if odd else None
        written = urllib.parse.quote(text, safe=self.dice.choice(["", ":,.~-_!*'()@$;=+"]))
        if not written:
            tag = "segment: nothing"
        if rule == "text" and self.one_in(3):
            return self.json('{"text":"of the body","aBool":true}', target=f"/e/s/text/{written}", tag=tag) | {"method": "PUT"}
        return {"target": f"/e/s/{rule}/{written}", "tag": tag}

    def piece(self):
        return self.dice.choice(PLAIN if self.one_in(2) else PIECES)

    def path(self):
        one = self.piece
        if self.one_in(12):
            # What is inside the body stands in the path.
            body = self.dice.choice(['{"number":"7"}', "{}", "", '{"name":"of the body"}'])
            return self.json(body, target=f"/e/m/shelves/{one()}", tag="path") | {"method": "PATCH"}
        target = self.dice.choice([
            lambda: f"/e/s/text/{one()}", lambda: f"/e/s/deep/{one()}/7", lambda: f"/e/m/shelves/{one()}", lambda: f"/e/m/shelves/{one()}/books/{one()}",
            lambda: f"/e/m/shops/{one()}/{one()}", lambda: f"/e/m/all/{one()}", lambda: f"/e/m/all/{one()}/{one()}", lambda: "/e/m/all",
            lambda: f"/e/m/some/files/{one()}/{one()}", lambda: f"/e/m/{one()}/fixed/{one()}", lambda: f"/e/w/{one()}:read", lambda: f"/e/w/{one()}",
            lambda: f"/e/w{one()}", lambda: "/e/w:all", lambda: f"/e/n/{one()}", lambda: f"/e/n/{one()}/{one()}", lambda: f"/e/n/{one()}/{one()}/{one()}",
            lambda: f"/e/n/first/{one()}", lambda: "/e/n/first", lambda: "/e/n", lambda: f"/{one()}", lambda: f"/e/{one()}/query", lambda: f"/e/query/{one()}",
            lambda: "/e//query", lambda: f"/e/w/shelves/{one()}:move", lambda: f"/e/w/files/{one()}/{one()}:mend", lambda: "/e/m/some/files",
        ])()  # fmt: skip
        if self.one_in(40):
            target = f"/e/n/**/{one()}"
        is_post = target.startswith(("/e/w/shelves", "/e/w/files"))
        method = self.dice.choice(["POST"] * 4 + ["GET"] if is_post else ["GET"] * 8 + ["POST", "DELETE", "HEAD", "OPTIONS", "PATCH", "PUT"])
        if method == "GET" and self.one_in(8):
            target += "?aBool=true"
        return {"method": method, "target": target, "tag": "path"}

    # Answers.

    def answer(self):
        message = self.messages.made(EVERYTHING)
        answer, tag = message.SerializeToString(), None
        if self.one_in(3):
            tag, odd = self.dice.choice(list(ODD_ANSWERS.items()))
            answer, tag = answer + odd, f"answer: {tag}"
        return {"target": "/e/query", "answer": answer, "tag": tag}

    def cut(self):
        target, member = self.dice.choice(list(CUTS.items()))
        answer = self.messages.made(EVERYTHING).SerializeToString()
        return {"target": target, "other_target": "/e/query", "member": member, "answer": answer}

    def failure(self):
        status = self.dice.choice(range(1, 17))
        said = self.dice.choice(["", "plain", "caf\u00e9 \U0001f980", "a\nb", "50 % off", "%41", "x" * 300])
        case = {"target": "/e/query", "status": status, "said": said, "tag": "failure"}
        if self.one_in(2):
            case["details"] = self.details(status, said)
        return case

    def details(self, status, said):
        message = self.messages.kind("google.rpc.Status")(code=status, message=said)
        for _ in range(self.dice.randrange(1, 3)):
            any_ = message.details.add()
            which = self.dice.randrange(3)
            if which == 0:
                any_.Pack(self.messages.kind("google.rpc.ErrorInfo")(reason="STOCK", domain="shop", metadata={"a": "b"}), deterministic=True)
            elif which == 1:
                bad = self.messages.kind("google.rpc.BadRequest")()
                bad.field_violations.add(field="sku", description="no such")
                any_.Pack(bad, deterministic=True)
            else:
                retry = self.messages.kind("google.rpc.RetryInfo")()
                retry.retry_delay.seconds = 3
                any_.Pack(retry, deterministic=True)
        return message.SerializeToString()

    # Real APIs.

    def public(self):
        one = self.piece
        which = self.dice.randrange(6)
        if which == 0:
            verb, kind = self.dice.choice([("setIamPolicy", "SetIamPolicyRequest"), ("getIamPolicy", "GetIamPolicyRequest"),
                                           ("testIamPermissions", "TestIamPermissionsRequest")])  # fmt: skip
            text, tag = self.bodies.body(f"google.iam.v1.{kind}", odd=self.one_in(2))
            return self.json(text, target=f"/v1/{self.dice.choice(['projects/p', 'a/b/c', one()])}:{verb}", tag=tag)
        if which == 1:
            query = self.dice.choice(["", "?filter=a%20b&page_size=5", "?pageSize=x", "?pageToken=t&returnPartialSuccess=true"])
            return {"target": f"/v1/operations{query}", "tag": "operations"}
        if which == 2:
            answer = self.messages.made("google.longrunning.Operation")
            for part in ("metadata", "response"):
                if answer.HasField(part) and self.one_in(2):
                    answer.ClearField(part)
            return {"target": f"/v1/operations/{one()}/{one()}", "answer": answer.SerializeToString(), "tag": "operation"}
        if which == 3:
            return self.json(self.dice.choice(["{}", "", '{"name":"x"}']), target=f"/v1/operations/{one()}:cancel", tag="operations")
        if which == 4:
            target = self.dice.choice(["/v1/locations", f"/v1/projects/{one()}/locations", f"/v1/locations/{one()}", f"/v1/projects/{one()}/locations/{one()}"])
            return {"target": target, "answer": b"", "tag": "locations"}
        text, tag = self.bodies.body("google.longrunning.WaitOperationRequest", odd=self.one_in(2))
        return self.json(text, target="/google.longrunning.Operations/WaitOperation", tag=tag, answer=b"")

    # The rest.

    def stream(self):
        if self.one_in(2):
            return {"target": f"/e/many?number={self.dice.randrange(4)}", "answer": self.messages.made(EVERYTHING).SerializeToString(), "tag": "stream"}
        text = self.dice.choice(["[]", '[{"name":"a"},{"number":7}]', ' [ {} , {"name":"b"} ] ', '[{"name":"a"}', "{}", '[{"nothing":1}]', '[{"name":"a"},]', "[1]"])
        return self.json(text, target="/e/collect", tag=f"stream: {text}")

    def raw(self):
        kind = self.dice.choice(["text/plain", "image/png", "application/json", "application/octet-stream", "text/csv; charset=utf-8"])
        body = bytes(self.dice.randrange(256) for _ in range(self.dice.randrange(40)))
        return {"method": "POST", "target": "/e/raw", "headers": {"content-type": kind}, "body": body, "tag": "raw"}

    def head(self):
        """What is said of a body, and bodies where none belong."""
        which = self.dice.randrange(3)
        if which == 0:
            kind = self.dice.choice(["text/plain", "", "application/x-www-form-urlencoded", "application/json; charset=utf-8", "APPLICATION/JSON",
                                     "text/json", "application/merge-patch+json", "application/xml", "application/jsonp"])  # fmt: skip
            headers = {"content-type": kind} if kind else {}
            return {"method": "POST", "target": "/e/whole", "headers": headers, "body": b'{"text":"a"}', "tag": f"type: {kind}"}
        if which == 1:
            return self.json('{"text":"a"}', target="/e/query", tag="body where none belongs") | {"method": self.dice.choice(["GET", "DELETE"])}
        target = self.dice.choice(["/e/whole?text=q", "/e/whole?aBool=true", "/e/inside/t?aBool=true", "/e/inside/t?inside.name=q", "/e/inside/t?text=q", "/v1/operations?name=x"])
        if "operations" in target:
            return {"target": target, "tag": f"beside the path: {target}"}
        return self.json('{"name":"a"}' if "inside" in target else '{"text":"a"}', target=target, tag=f"beside the body: {target}")


# Bytes behind a message that make it an unusual one, or none. A field's key is its number times eight, and how it is written.
ODD_ANSWERS = {
    "a field that nobody knows": b"\xfa\x7f\x01x",
    "an enumeration's number that nobody knows": b"\x80\x01\x63",
    "no UTF-8": b"\x72\x02\xff\xfe",
    "a time beyond the last": b"\xea\x01\x07\x08\x80\xa0\xcd\xdf\xd9\x8a\x15",
    "a time with nanoseconds below zero": b"\xea\x01\x0b\x10\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
    "a duration of two signs": b"\xf2\x01\x0d\x08\x01\x10\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
    "a duration beyond the longest": b"\xf2\x01\x07\x08\xff\xff\xff\xff\xff\x7f",
    "an Any of a type that nobody knows": b"\x9a\x02\x0d\x0a\x09t/no.Such1\x12\x00",
    "an Any of no type": b"\x9a\x02\x03\x12\x01x",
    "an Any that is not what it says": b"\x9a\x02\x14\x0a\x10t/shop.v1.Inside\x12\x00",
    "a Value that is none": b"\x8a\x02\x00",
    "a Value that is no number": b"\x8a\x02\x09\x11\x00\x00\x00\x00\x00\x00\xf8\x7f",
    "a mask that is no name": b"\xfa\x01\x05\x0a\x03a_1",
    "zero below zero": b"\x09\x00\x00\x00\x00\x00\x00\x00\x80",
    "cut off": b"\x72\x09a",
    "a list that is packed": b"\xb2\x01\x03\x01\x02\x03",
    "a list that is not": b"\xb0\x01\x01\xb0\x01\x02",
    "a message in two parts": b"\x8a\x01\x03\x0a\x01a\x8a\x01\x02\x10\x07",
    "both of a oneof": b"\x9a\x01\x01a\xa0\x01\x07",
    "a key of a map twice": b"\xd2\x01\x05\x0a\x01k\x10\x01\xd2\x01\x05\x0a\x01k\x10\x02",
    "a whole number in too many bytes": b"\x18\x81\x80\x80\x80\x80\x80\x80\x80\x80\x00",
    "another wire type": b"\x1d\x01\x00\x00\x00",
    "field number zero": b"\x02\x01x",
}
