// Runs the public tests of HTTP caches against the one whose URL is given, which stands in front of the suite's own server, and prints what came
// of each of them, one JSON object a line.
import fetch from 'node-fetch'
import { runTests, getResults } from 'http-cache-tests/client/runner.mjs'
import suites from 'http-cache-tests/tests/index.mjs'

await runTests(suites, fetch, false, process.argv[2])
const results = getResults()
for (const suite of suites) {
  for (const test of suite.tests) {
    const { id, name, kind = 'required', depends_on: depends = [] } = test
    console.log(JSON.stringify({ suite: suite.name, id, name, kind, depends, result: results[id] ?? null }))
  }
}
