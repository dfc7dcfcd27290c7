"""Plays cases to Envoy's transcoder and to the gateway, and compares what the service saw and what the client heard. Prints one line of JSON.

Arguments: a set of descriptors, a seed, how many cases, Envoy's port, the gateway's port, the file that the service writes what it sees into;
and, if it is to be one of them alone, its number.
"""

import base64
import collections
import http.client
import json
import pathlib
import random
import sys
import threading
from concurrent import futures

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))
from cases import Cases  # noqa: E402
from compared import differences, explanation  # noqa: E402
from explained import ALL as explained_differences  # noqa: E402
from messages import pool_of  # noqa: E402

AT_ONCE = 6
SHOWN = 40


class Client:
    """Connections to one gateway, one a thread."""

    def __init__(self, name, port):
        self.name, self.port, self.local = name, port, threading.local()

    def connection(self):
        if not hasattr(self.local, "connection"):
            self.local.connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        return self.local.connection

    def asked(self, case, target):
        connection = self.connection()
        connection.putrequest(case["method"], target, skip_accept_encoding=True)
        for name, value in {**case["headers"], **self.metadata(case)}.items():
            connection.putheader(name, value)
        if case["body"] or case["method"] in ("POST", "PUT", "PATCH"):
            connection.putheader("content-length", str(len(case["body"])))
        connection.endheaders(case["body"] or None)
        answer = connection.getresponse()
        body = answer.read()
        return {"status": answer.status, "type": (answer.getheader("content-type") or "").lower(), "body": body}

    def metadata(self, case):
        """What the service is to do."""
        fields = {"x-case": str(case["number"]), "x-by": self.name}
        if "answer" in case:
            fields["x-answer-bin"] = base64.b64encode(case["answer"]).decode()
        if "status" in case:
            fields |= {"x-status": str(case["status"]), "x-message": case["said"].encode().hex()}
        if "details" in case:
            fields["x-details-bin"] = base64.b64encode(case["details"]).decode()
        return fields


def played(case, clients):
    theirs, ours = clients
    heard = {}
    for client, target in ((theirs, case.get("other_target", case["target"])), (ours, case["target"])):
        try:
            heard[client.name] = client.asked(case, target)
        except (http.client.HTTPException, OSError) as error:
            client.connection().close()
            heard[client.name] = {"status": 0, "type": "", "body": repr(error).encode()}
    return case, heard


def seen(path):
    """The calls that the service saw, by case and gateway."""
    calls = collections.defaultdict(list)
    with open(path, encoding="ascii") as file:
        for line in file:
            call = json.loads(line)
            calls[call["case"], call["by"]].append([call["method"], call["requests"]])
    return calls


def shown(case, theirs, ours, what):
    told = {key: value for key, value in case.items() if key not in ("answer", "details", "text")}
    lines = [f"case {case['number']}: {what}", f"  {told}"]
    for name, one in (("Envoy", theirs), ("ours", ours)):
        lines.append(f"  {name}: {one['status']} {one['type']} {one['body'][:600]!r} {one['calls']}")
    return "\n".join(lines)


def main():
    pool = pool_of(sys.argv[1])
    seed, count = int(sys.argv[2]), int(sys.argv[3])
    clients = (Client("envoy", int(sys.argv[4])), Client("ours", int(sys.argv[5])))
    numbers = [int(sys.argv[7])] if len(sys.argv) > 7 else range(count)
    # Each has a seed of its own, so that one alone is what it is among many.
    cases = [Cases(pool, random.Random(f"{seed}/{number}")).case(number) for number in numbers]
    with futures.ThreadPoolExecutor(AT_ONCE) as threads:
        all_heard = list(threads.map(lambda case: played(case, clients), cases))
    calls = seen(sys.argv[6])
    kinds, explained, failures = collections.Counter(), collections.Counter(), []
    for case, heard in all_heard:
        theirs, ours = ({**heard[name], "calls": calls[str(case["number"]), name]} for name in ("envoy", "ours"))
        kinds[case["kind"], bool(ours["calls"])] += 1
        what = differences(case, theirs, ours)
        if not what:
            continue
        name = explanation(case, theirs, ours, what)
        if name:
            explained[name] += 1
        else:
            failures.append(shown(case, theirs, ours, ", ".join(sorted(what))))
    told = {f"{kind}{'' if called else ' (refused)'}": number for (kind, called), number in sorted(kinds.items())}
    unused = [name for name, *_ in explained_differences if name not in explained]
    told = {"cases": len(cases), "kinds": told, "explained": explained, "unused": unused, "differ": len(failures)}
    print(json.dumps(told | {"failures": failures[:SHOWN]}))


main()
