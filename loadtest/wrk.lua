-- A mix of requests for wrk, and a count of the statuses that came back.
--
-- loadtest/README.md tells how to run it; in short:
--   wrk -t2 -c32 -d10s --latency -s loadtest/wrk.lua http://127.0.0.1:8080
--
-- Environment (all optional):
--   API_KEY   sent as X-API-Key with the requests that go to CART_PATH
--   TOKEN     sent as Authorization: Bearer with the requests that go to ORDERS_PATH
--   PATHS     paths that need no credentials, separated by spaces; taken in turn
--   CART_PATH, ORDERS_PATH  where credentials are asked for; left out of the mix without API_KEY or TOKEN
--
-- Only a gateway on this machine is a target: the name or address must be a loopback one.

local function env(name, default)
  local value = os.getenv(name)
  if value == nil or value == "" then
    return default
  end
  return value
end

local function is_loopback(host)
  return host == "localhost" or host == "::1" or host:match("^127%.%d+%.%d+%.%d+$") ~= nil
end

-- Here and not in init(), for wrk connects once before it calls that.
if not is_loopback(wrk.host) then
  io.stderr:write("wrk.lua: " .. tostring(wrk.host) .. " is not a loopback address; this script loads only this machine\n")
  os.exit(2)
end

local threads = {}

function setup(thread)
  table.insert(threads, thread)
end

-- Runs in each thread, which has variables of its own.
function init(args)
  requests = {}
  for path in env("PATHS", "/products/1001 /products/1002 /prices/1001"):gmatch("%S+") do
    table.insert(requests, wrk.format("GET", path))
  end
  local key, token = env("API_KEY"), env("TOKEN")
  if key then
    table.insert(requests, wrk.format("GET", env("CART_PATH", "/cart/items/1"), { ["X-API-Key"] = key }))
  end
  if token then
    table.insert(requests, wrk.format("GET", env("ORDERS_PATH", "/orders/1"), { ["Authorization"] = "Bearer " .. token }))
  end
  turn = 0
  statuses = {}
end

function request()
  turn = turn % #requests + 1
  return requests[turn]
end

function response(status)
  statuses[status] = (statuses[status] or 0) + 1
end

function done(summary, latency)
  local total = {}
  for _, thread in ipairs(threads) do
    for status, count in pairs(thread:get("statuses") or {}) do
      total[status] = (total[status] or 0) + count
    end
  end
  local order = {}
  for status in pairs(total) do
    table.insert(order, status)
  end
  table.sort(order)
  print("\nanswers by status:")
  for _, status in ipairs(order) do
    print(string.format("  %d  %10d  %9.1f/s", status, total[status], total[status] / (summary.duration / 1e6)))
  end
  local errors = summary.errors
  print(string.format("sockets: %d failed to connect, %d to read, %d to write, %d timed out",
    errors.connect, errors.read, errors.write, errors.timeout))
  print(string.format("latency: p50 %.2f ms, p99 %.2f ms, p99.9 %.2f ms, max %.2f ms",
    latency:percentile(50) / 1e3, latency:percentile(99) / 1e3, latency:percentile(99.9) / 1e3, latency.max / 1e3))
end
