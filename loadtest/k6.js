// Checks under load: every request has an expected status, and the run fails if one is missed.
//
//   BASE_URL=http://127.0.0.1:8080 k6 run --quiet loadtest/k6.js
//
// Environment: BASE_URL (default http://127.0.0.1:8080), API_KEY, TOKEN, PATHS, CART_PATH, ORDERS_PATH as in wrk.lua, and
// RATE (requests per second, default 300), DURATION (default 15s, at most 120s), MISSING_PATH (default /nowhere).
//
// An open model: requests begin at RATE whether or not the earlier ones have been answered, so that a slow answer cannot hide the
// requests that wait behind it. Only a gateway on this machine is a target.

import http from 'k6/http';
import { check } from 'k6';
import { Counter } from 'k6/metrics';

const BASE_URL = (__ENV.BASE_URL || 'http://127.0.0.1:8080').replace(/\/$/, '');
const RATE = Number(__ENV.RATE || 300);
const SECONDS = Math.min(120, parseInt(__ENV.DURATION || '15s', 10));
const limited = new Counter('rate_limited');

const host = BASE_URL.replace(/^https?:\/\//, '').replace(/[/?#].*$/, '').replace(/:\d+$/, '').replace(/^\[|\]$/g, '');
if (!/^(localhost|::1|127\.\d+\.\d+\.\d+)$/.test(host)) {
  throw new Error(`${host} is not a loopback address; this script loads only this machine`);
}

// What is asked for in turn, with the status that it must give. 429 is right for everything: limits are there to be reached.
const tries = (__ENV.PATHS || '/products/1001 /products/1002 /prices/1001')
  .split(/\s+/)
  .filter((path) => path !== '')
  .map((path) => ({ name: 'open', path, status: 200, headers: {} }));
tries.push({ name: 'no route', path: __ENV.MISSING_PATH || '/nowhere', status: 404, headers: {} });
if (__ENV.API_KEY) {
  const path = __ENV.CART_PATH || '/cart/items/1';
  tries.push({ name: 'api key', path, status: 200, headers: { 'X-API-Key': __ENV.API_KEY } });
  tries.push({ name: 'wrong api key', path, status: 401, headers: { 'X-API-Key': 'not-a-key' } });
}
if (__ENV.TOKEN) {
  const path = __ENV.ORDERS_PATH || '/orders/1';
  tries.push({ name: 'token', path, status: 200, headers: { Authorization: `Bearer ${__ENV.TOKEN}` } });
}

export const options = {
  insecureSkipTLSVerify: true, // the demo's certificate is self-signed
  scenarios: {
    mix: {
      executor: 'constant-arrival-rate',
      rate: RATE,
      timeUnit: '1s',
      duration: `${SECONDS}s`,
      preAllocatedVUs: 32,
      maxVUs: 256,
      gracefulStop: '5s',
    },
  },
  thresholds: {
    checks: ['rate==1'],
    'http_req_duration{expected:yes}': ['p(99)<250'],
    dropped_iterations: ['count<10'],
  },
  summaryTrendStats: ['min', 'med', 'p(90)', 'p(99)', 'max'],
};

export default function () {
  const want = tries[Math.floor(Math.random() * tries.length)];
  const answer = http.get(BASE_URL + want.path, {
    headers: want.headers,
    tags: { name: want.name, expected: 'yes' },
    responseCallback: http.expectedStatuses({ min: 200, max: 499 }),
  });
  if (answer.status === 429) {
    limited.add(1);
  }
  check(answer, {
    'the status is the expected one': (got) => got.status === want.status || got.status === 429,
    'every answer has a request id': (got) => got.headers['X-Request-Id'] !== undefined,
    'a refusal is a problem body': (got) =>
      got.status < 400 || (got.headers['Content-Type'] === 'application/problem+json' && got.json('status') === got.status),
    'a 429 says when to come back': (got) => got.status !== 429 || Number(got.headers['Retry-After']) >= 1,
  });
}
