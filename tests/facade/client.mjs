// What clients of the registry make of the gateway: each check prints one line of JSON. `node client.mjs URL SCHEMA`
import { readFileSync } from "node:fs";
import { buildClientSchema, buildSchema, getIntrospectionQuery, lexicographicSortSchema, parse, printSchema, validate } from "graphql";
import { serverAudits } from "graphql-http";
import { GraphQLClient, gql } from "graphql-request";

const [url, file] = process.argv.slice(2);
const say = (what, value) => console.log(JSON.stringify({ what, value }));
const client = new GraphQLClient(url);

// The schema as clients see it is the one that was written.
const introspected = buildClientSchema(await client.request(getIntrospectionQuery({ specifiedByUrl: true, schemaDescription: true, inputValueDeprecation: true })));
const text = (schema) => printSchema(lexicographicSortSchema(schema));
const written = buildSchema(readFileSync(file, "utf8"));
say("schema", text(introspected) === text(written));

const query = gql`
  query Page($sku: ID!, $first: Int = 1) {
    product(sku: $sku) { ...card vendor { name } reviews(first: $first) { text } }
    products(first: 2) { ...card vendor { name } }
  }
  fragment card on Product { sku title: name price }
`;
say("valid", validate(introspected, parse(query)).length);
say("page", await client.request(query, { sku: "SKU-789" }));
say("renamed", await client.request(gql`mutation { rename(sku: "SKU-789", name: "Headphones") { name } }`));

try {
  await client.request(gql`{ product(sku: "broken") { name } }`);
} catch (error) {
  say("errors", error.response.errors.map(({ message, path, locations }) => ({ message, path, locations })));
}

const byGet = new GraphQLClient(url, { method: "GET" });
say("get", await byGet.request(gql`{ product(sku: "SKU-789") { name } }`));

// Ours and the reference's own rules find the same documents wrong.
const documents = [
  "{ product { name } }", "{ product(sku: 1) }", "{ nothing }", "{ product(sku: 1) { name { x } } }", "query($a: Int) { products(first: 1) { sku } }",
  "{ products(first: \"1\") { sku } }", "{ a: products(first: 1) { sku } a: products(first: 2) { sku } }", "{ ...f } fragment f on Query { products(first: 1) { sku } }",
  "fragment f on Query { products(first: 1) { sku } } { products(first: 1) { sku } }", "query($f: Int!) { products(first: $f) { sku } }",
  "query($f: String) { products(first: $f) { sku } }", "{ products(first: 1) { sku @skip(if: 1) } }", "{ products(first: 1, order: PRICE) { sku } }",
  "{ products(first: 1, order: \"PRICE\") { sku } }", "{ products(first: 1, filter: { min: 1, max: 2 }) { sku } }", "{ products(first: 1, filter: { text: 1 }) { sku } }",
  "{ found(text: \"a\") { sku } }", "{ found(text: \"a\") { ... on Product { sku } ... on Vendor { name } } }", "{ found(text: \"a\") { ... on Product { x: sku } ... on Vendor { x: name } } }",
  "mutation { rename(sku: 1) { name } }", "{ __schema { nothing } }", "{ __typename @include(if: true) @include(if: true) }", "query A { __typename } query A { __typename }",
];
const differing = [];
for (const document of documents) {
  const answer = await fetch(url, {
    method: "POST", body: JSON.stringify({ query: document, operationName: document.startsWith("query A ") ? "A" : undefined }),
    headers: { "content-type": "application/json", accept: "application/graphql-response+json" },
  });
  const theirs = validate(written, parse(document)).length > 0;
  const variables = document.includes("$f: Int!"); // Valid, and without its variable no request.
  const ours = answer.status === 400 && !variables;
  if (ours !== theirs) differing.push({ document, ours, theirs, status: answer.status, body: await answer.text() });
}
say("differing", differing);

// GraphQL over HTTP, as its own suite would have it.
const failed = [];
for (const audit of serverAudits({ url })) {
  const result = await audit.fn();
  if (result.status !== "ok") failed.push({ name: audit.name, status: result.status, reason: result.reason });
}
say("audits", failed);
