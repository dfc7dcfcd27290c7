"""The differences that are meant, one by one: what it is, when exactly it is that, and where it comes from."""

import collections
import json
import re
import urllib.parse

Difference = collections.namedtuple("Difference", "case theirs ours what reason told")

WHOLE = r"u?int(32|64)( wrapper)?"
REAL = r"(double|float)( wrapper)?"
NUMBER = r"(u?int(32|64)|double|float)( wrapper)?"
TEXT = "(query |segment )?"


def statuses(theirs, ours):
    return lambda d: (d.theirs["status"], d.ours["status"]) == (theirs, ours)


def tagged(*patterns):
    """What is odd about the case is one of these, as a whole."""
    return lambda d: any(re.fullmatch(pattern, d.case["tag"] or "", re.DOTALL) for pattern in patterns)


def every(*all_of):
    return lambda d: all(one(d) for one in all_of)


def either(one, other):
    return lambda d: one(d) or other(d)


def refused_here(reason="unfit_message"):
    """Envoy makes a call of it, and here it is 400."""
    return lambda d: statuses(200, 400)(d) and d.reason == reason and not d.ours["calls"] and len(d.theirs["calls"]) == 1


def refused_there(d):
    """The other way round."""
    return statuses(400, 200)(d) and not d.theirs["calls"] and len(d.ours["calls"]) == 1


def no_method_there(d):
    return d.theirs["status"] == 404 and not d.theirs["calls"]


def other_call(d):
    """Both make one call, and not of the same message."""
    return "call" in d.what and "status" not in d.what and len(d.theirs["calls"]) == len(d.ours["calls"]) == 1


def path(d):
    return urllib.parse.unquote(raw_path(d))


def raw_path(d):
    return d.case["target"].partition("?")[0]


def is_path(d):
    return d.case["kind"] in ("path", "public", "segment")


def has_dots(d):
    return any(segment in (".", "..") for segment in path(d).split("/"))


def is_empty_somewhere(d):
    parts = re.sub(r":[^/]*$", "", raw_path(d)).split("/")[1:]
    return "" in parts


def is_no_utf8(d):
    parts = urllib.parse.unquote_to_bytes(d.case["target"])
    try:
        parts.decode()
    except UnicodeDecodeError:
        return d.reason == "unfit_message"
    return False


def one_spelling(d):
    """The same calls but for the digits of an escaped slash, in hexadecimal themselves."""
    alike = [re.sub("2532[46]6", "253246", json.dumps(one["calls"])) for one in (d.theirs, d.ours)]
    return alike[0] == alike[1]


def said_twice(d):
    """The path says a field that the body says as well."""
    text = d.case.get("text", "")
    return any(f'"{name}"' in text for name in ("resource", "name", "text"))


def is_list_for_list(d):
    return re.match(r"\s*\[\s*\[", d.case.get("text", "")) and d.case["tag"] == "text: a list"


def is_comma(d):
    return statuses(200, 400)(d) and d.reason == "malformed_json" and d.case["tag"] == 'stream: [{"name":"a"},]'


ALL = [
    # Paths.
    ("HEAD is answered as GET", every(is_path, no_method_there, lambda d: d.case["method"] == "HEAD" and d.ours["status"] in (200, 400)),
     "RFC 9110, section 9.3.2: HEAD is GET without the content. Envoy has no rule for it"),
    ("another method is 405", every(is_path, no_method_there, lambda d: d.reason == "method_not_bound"),
     "RFC 9110, section 15.5.6: with `Allow`, where the path has a rule for other methods"),
    ("a broken escape is refused", every(is_path, lambda d: d.reason == "path_bad_escape"),
     "RFC 3986, section 2.1: `%` begins two hexadecimal digits. Envoy takes it for itself"),
    ("dot segments are resolved", every(is_path, has_dots, lambda d: d.ours["status"] in (200, 400, 404)),
     "RFC 3986, section 5.2.4 leaves `/a/` of `/a/.`, where Envoy leaves `/a`; what leads out of the root is refused"),
    ("what is no UTF-8 is the client's fault", every(is_no_utf8, lambda d: d.ours["status"] == 400 and d.theirs["status"] in (200, 404, 500)),
     "a `string` is UTF-8 (proto3). Envoy sends it, and the service's reader fails"),
    ("escaped slashes have one spelling", every(is_path, other_call, one_spelling, lambda d: "%2f" in d.case["target"]),
     "RFC 3986, section 6.2.2.1: `%2f` is `%2F`, and is told so, wherever a path is looked at"),
    ("the path goes before the body", every(is_path, other_call, said_twice, lambda d: d.case["method"] in ("POST", "PUT", "PATCH")),
     'google.api.http: with `body: "*"` the body is what the path does not say. Envoy lets the body say it, unless it is told to refuse that'),
    ("a colon in a value", every(is_path, no_method_there, statuses(404, 200), lambda d: ":" in path(d)),
     "google.api.http: a word behind a colon is one if a rule for that place has it. To Envoy it is one if any rule has it"),
    ("an empty segment is a segment", every(is_path, is_empty_somewhere, lambda d: d.ours["status"] in (200, 400, 404)),
     "google.api.http: `*` is one segment, which has something in it here, and `**` any number. Envoy drops a slash at the end, and lets `*` be empty"),
    ("two stars in a path", every(is_path, other_call, lambda d: "/**" in path(d)),
     "a segment of a request is a text and no pattern: Envoy takes `**` for the one of a rule"),
    # What stands in a body.
    ("JSON's grammar", every(refused_here("malformed_json"), tagged(
        "text: (trailing comma|form feed|single quotes|unquoted name)", r"list: \[1,\]", rf"{NUMBER}: 1\.",
        r'string( wrapper)?: ("\\x"|"\x01"|"\t")')),
     "RFC 8259: no comma at the end, no control characters in texts, no other quotation marks, digits behind a point"),
    ("one name, one value", either(every(refused_here("malformed_json"), tagged("object: (twice|null)")), every(refused_here(), tagged("key int32: (01|-0)"))),
     "RFC 8259, section 4: names should be unique, and readers differ where they are not. Envoy takes both, or the last"),
    ("one field, one spelling", every(refused_here(), tagged("object: (both spellings|null)")), "the same, of `unitPrice` and `unit_price`"),
    ("members that the message does not know", every(refused_here(), tagged(
        "object: (unknown|case)", r'message: \{"(nothing|name|number)":.*', r'Any: \{"@type":"type.googleapis.com/shop.v1.Inside","(nothing|value)":.*',
        r'stream: \[\{"nothing":1\}\]')),
     "proto3's JSON mapping: unknown fields are an error unless that is switched off, here by `unknown_fields: ignore`"),
    ("what an Any holds is there", every(refused_here(), tagged(r'Any: \{"@type":"type.googleapis.com/google.protobuf.Duration"\}')),
     "proto3's JSON mapping: types with a form of their own stand in `value`"),
    ("null is no element, and no value of a map", every(refused_here(), tagged(
        r"list: \[null\]", r'map: \{"a":null\}', r'(Timestamp|Duration|FieldMask|Struct|ListValue|Any|message|bool|string|bytes|enum): null', rf"{NUMBER}: null",
        r"[a-z0-9]+ wrapper: null", r'message: \{"name":null\}')),
     "proto3's JSON mapping: null stands for a field that is not there. Envoy leaves such elements out"),
    ("null for a list of values", every(other_call, tagged("list: null", "object: null"), lambda d: '"values"' in d.case["text"]),
     "proto3's JSON mapping: null for a list is no list. Envoy makes it a list of one null"),
    ("a list is an array", every(refused_here(), tagged(r'list: (\{\}|1|"x"|\[\[\]\])', rf"{NUMBER}: \[1\]", r"(string|enum|bytes|message)( wrapper)?: \[\]", r"ListValue: \[null\]")),
     "proto3's JSON mapping: Envoy takes one value for a list of it, and lists in lists"),
    ("a list in a list", every(refused_here(), is_list_for_list), "the same"),
    ("types with a form of their own", every(refused_here(), tagged(
        r"(Timestamp|Duration|FieldMask|ListValue): [{\[].*", r"[a-z0-9]+ wrapper: (\{\}|\[\]|\[1\])", r"string: \{\}")),
     "proto3's JSON mapping: a time is a text, and so on. Envoy also takes the message's own fields"),
    ("objects for values of a map", every(statuses(500, 400), lambda d: d.reason == "unfit_message", tagged(r"(string|u?int(32|64)): \{\}")),
     "proto3's JSON mapping. Envoy sends something that is no message, and the service's reader fails"),
    ("numbers as C writes them", every(refused_here(), tagged(rf'{TEXT}{REAL}: "?(\+1|0x1|\.5|1\.)"?', rf'{TEXT}{WHOLE}: "?\+1"?', r"key u?int(32|64): \+1")),
     "proto3's JSON mapping: as JSON writes numbers"),
    ("whole numbers that a double cannot tell apart", every(refused_here(), tagged(
        r'u?int64( wrapper)?: (9007199254740993\.0|-9223372036854775808\.0|-9223372036854775809|9223372036854775807\.0|18446744073709551615\.0)')),
     "beyond 2^53 the digits alone say which whole number it is"),
    ("whole numbers with a fraction or an exponent as texts", every(refused_there, tagged(rf'(query |segment |key )?{WHOLE}: "?(-?\d+\.0|1[eE]2|-0)"?')),
     'the mapping\'s conformance tests read `"1e2"` and `"1.0"` as whole numbers'),
    ("the largest float", every(lambda d: refused_there(d) or d.what == {"answer"}, tagged(rf'{TEXT}float( wrapper)?: "?3\.4028235e38"?')),
     "proto3's JSON mapping: it is the largest float, as most write it. Envoy reads it as a double, and writes it with more digits"),
    ("zero below zero", every(lambda d: d.what <= {"call", "answer"}, tagged(rf'{TEXT}{REAL}: "?-0(\.0)?"?', "answer: zero below zero")),
     "protobuf's encoding writes it. The library that holds messages here takes it for 0, which is not written"),
    ("names of enumerations", every(refused_here(), tagged(r'enum: "[12]"', r"text: a text")),
     "proto3's JSON mapping: a name, or a number; Envoy takes numbers as texts, too"),
    ("numbers of enumerations that nobody knows", every(refused_there, tagged(r"(query |segment )enum: (77|-1)")),
     "proto3: enumerations are open, and a number is kept whether it is known or not. Envoy refuses it in a text"),
    ("true and false", every(refused_here(), tagged(r'(query |segment )?bool( wrapper)?: "?(True|TRUE|1|0|yes|t|true|false)"?', "key bool: TRUE")),
     "proto3's JSON mapping: `true` and `false` and nothing else"),
    ("base64", every(refused_here(), tagged(r'bytes( wrapper)?: "AAEC\\n"')), "RFC 4648, section 3.3: no other characters"),
    ("times as RFC 3339 writes them", every(refused_here(), tagged(rf'{TEXT}Timestamp: "?2026-(1-31T12:00:00Z|01-31T12:00:(60|00\.)Z)"?')),
     "RFC 3339: two digits each, digits behind a point, and no 60th second, for `Timestamp` has none"),
    ("durations", every(refused_here(), tagged(rf'{TEXT}Duration: "?(\+1s|1 s|1\.s|-?315576000000\.5s)"?')),
     "duration.proto: seconds with up to nine digits behind a point, from -315,576,000,000 to as many, and an `s`"),
    ("masks in camel case", every(lambda d: refused_here()(d) or other_call(d) or d.what == {"answer"}, tagged(rf'{TEXT}FieldMask: "?(A|a b|a\(b,c\)|unit_price)"?')),
     "field_mask.proto: names in camel case with commas between, which come back as they were"),
    ("types of any host", every(refused_there, tagged(r'Any: \{"@type":"x?/shop\.v1\.Inside".*')), "any.proto: the type is what stands behind the last slash"),
    ("a bare number as the body", every(lambda d: d.theirs["status"] == 501 and d.ours["status"] in (200, 400) and d.case["kind"] == "part", lambda d: re.match(r"\s*[-\d]", d.case["text"])),
     "RFC 8259: any value is a text of JSON. Envoy waits for what ends the number, and sends no message at all"),
    ("no body for a field", every(lambda d: d.case["kind"] == "part" and (other_call(d) or refused_there(d)), tagged("text: (nothing|white space|cut off)"),
                                  lambda d: not d.case["body"]),
     "what is not there is not said. Envoy takes it for an empty object"),
    ("another body than the rule's", every(lambda d: d.case["kind"] == "part", lambda d: d.theirs["status"] in (200, 500) and d.ours["status"] == 400, tagged("text: deep")),
     "proto3's JSON mapping: unknown fields, as above, where the body is a field and not the message"),
    ("a stream that breaks off", every(lambda d: d.case["kind"] == "stream", lambda d: (statuses(400, 400)(d) and d.what == {"call"}) or is_comma(d)),
     "how much of it the service has seen by then is an accident, and Envoy overlooks the comma"),
    # Heads.
    ("a body says that it is JSON", every(statuses(200, 415), lambda d: d.reason == "json_needed", tagged("type: .*")),
     "RFC 9110, section 8.3; and a page of somebody else's cannot say it without being asked first (Fetch)"),
    ("no body where none belongs", every(refused_here("unexpected_body"), tagged("body where none belongs")),
     "google.api.http: without `body` there is none. Envoy drops it"),
    ("the query says what nobody else says", every(refused_here(), tagged(r"beside the (body|path): .*")),
     'google.api.http: the query says what neither path nor body say. Envoy lets it say the same, and it goes before'),
    # Queries.
    ("a parameter has a value", every(refused_here(), tagged("pair: (nothing|a_bool|an_int32|=1)")), "Envoy drops what has no `=`, or no name"),
    ("one parameter, one value", every(refused_here(), tagged("pair: (text=a&text=b|anInt32=1&an_int32=2)")),
     "google.api.http: only lists are repeated. Envoy takes the last"),
    ("parameters name fields of messages", every(refused_here(), tagged(
        r"pair: (insides\.name=1|inside\.many\.name=x|time\.seconds=1|span\.nanos=1|mask\.paths=a|structure\.fields=1|value=1|wrappedInt64\.value=1)")),
     "google.api.http: a parameter is a primitive or a list of them; what has a form of its own in JSON has no fields, and an element of a list has no name"),
    ("names in escapes", every(refused_there, tagged(r"pair: (inside%2Ename=a|t%65xt=a)")), "the URL Standard: names are decoded as values are"),
    # Answers.
    ("a field that is there twice", every(statuses(502, 200), lambda d: b"repeated entries for singular field number" in d.theirs["body"]),
     "protobuf's encoding: the last one counts, and messages are merged"),
    ("the last of a oneof", every(lambda d: d.what == {"answer"}, tagged("answer: both of a oneof")), "protobuf's encoding: the last one counts"),
    ("a Value of no kind", every(lambda d: d.what == {"answer"}, tagged("answer: a Value that is none")),
     "struct.proto calls it an error. It is null here, and Envoy leaves it out"),
    ("no field has the number 0", every(statuses(200, 502), tagged("answer: field number zero")), "protobuf's encoding"),
    ("masks that do not come back", every(statuses(200, 502), tagged("answer: a mask that is no name")), "field_mask.proto: what does not come back as it was is an error"),
    ("an Any of any host", every(statuses(502, 200), tagged("answer: an Any that is not what it says")), "any.proto: the type is what stands behind the last slash"),
]  # fmt: skip
