"""Python's own `json_format`, to compare with: prints one line of JSON.

Arguments: a set of descriptors, a seed, how many messages of `shop.v1.Everything` to make up, and a file with a list of texts to read as such
messages. Of each message its bytes and its JSON, of each text its JSON, or null if it is none.
"""

import json
import random
import sys

from google.protobuf import json_format

from messages import Messages, pool_of

pool = pool_of(sys.argv[1])
messages = Messages(pool, random.Random(int(sys.argv[2])))
Everything = messages.kind("shop.v1.Everything")


def read(body):
    try:
        return json_format.MessageToJson(json_format.Parse(body, Everything(), descriptor_pool=pool), descriptor_pool=pool)
    except json_format.ParseError:
        return None


made = []
for _ in range(int(sys.argv[3])):
    message = messages.made("shop.v1.Everything")
    written = json_format.MessageToJson(message, descriptor_pool=pool)
    made.append({"bytes": message.SerializeToString(deterministic=True).hex(), "json": written})
with open(sys.argv[4], encoding="utf-8") as file:
    texts = [read(body) for body in json.load(file)]
print(json.dumps({"made": made, "read": texts}))
