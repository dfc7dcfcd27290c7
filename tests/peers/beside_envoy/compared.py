"""What of two gateways' answers has to be the same, and which differences are meant."""

import json
import math

import explained


# Of each kind of field.
DEFAULTS = (None, 0, "0", "", False, [], {}, "COLOUR_UNSPECIFIED", "1970-01-01T00:00:00Z")


def value(body):
    """JSON as a value, or None if it is none."""
    try:
        return [json.loads(body)]
    except ValueError:
        return None


def same(one, other):
    """Numbers are the same if they are worth the same."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, (int, float)) and isinstance(other, (int, float)):
        return one == other or isinstance(one, float) and isinstance(other, float) and math.isnan(one) and math.isnan(other)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[name], other[name]) for name in one)
    return type(one) is type(other) and one == other


def failed(case, body):
    """A failed call as both tell it: the code, what is said and the details."""
    told = value(body)
    if not told or not isinstance(told[0], dict):
        return None
    told = told[0]
    if "grpc_status" in told:
        said = "" if told["detail"] == "The service has failed the call, and does not say why." else told["detail"]
        return [told["grpc_status"], said, told.get("details", [])]
    return [told.get("code"), told.get("message", ""), told.get("details", [])]


def differences(case, theirs, ours):
    """Which of `call`, `status` and `answer` are not the same."""
    what = set()
    calls = [one["calls"] for one in (theirs, ours)]
    if "member" in case:
        calls = [[requests for _, requests in one] for one in calls]
    if calls[0] != calls[1]:
        what.add("call")
    if theirs["status"] != ours["status"]:
        what.add("status")
    if case["method"] == "HEAD" or what:
        return what
    if theirs["status"] == 200:
        left, right = value(theirs["body"]), value(ours["body"])
        if left and "member" in case:
            left = [left[0].get(case["member"], None)]
            # What is not there is its default.
            if left == [None] and right and right[0] in DEFAULTS:
                return what
        alike = same(left, right) if left and right else theirs["body"] == ours["body"]
        if not alike or theirs["type"].split(";")[0] != ours["type"].split(";")[0]:
            what.add("answer")
    elif "status" in case and ours["calls"]:
        if not same(failed(case, theirs["body"]), failed(case, ours["body"])):
            what.add("answer")
    return what


def explanation(case, theirs, ours, what):
    """The name of the first explanation that fits, if one does."""
    told = value(ours["body"]) or [{}]
    reason = told[0].get("reason") if isinstance(told[0], dict) else None
    difference = explained.Difference(case, theirs, ours, what, reason, told[0])
    return next((name for name, fits, _ in explained.ALL if fits(difference)), None)
