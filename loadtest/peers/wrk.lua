-- What wrk does for loadtest/peers.py: GET of one path, or with ROUTES=n of n routes in turn; a line of JSON at the end.

local routes = tonumber(os.getenv("ROUTES") or "0")

if routes > 0 then
  local requests, at = {}, 0

  function init(args)
    for n = 0, routes - 1 do
      requests[n + 1] = wrk.format("GET", "/r" .. n .. "/item")
    end
  end

  -- Far from each other, and each as often as any other: 7919 is a prime.
  function request()
    at = (at + 7919) % routes
    return requests[at + 1]
  end
end

-- No response(): being called for each answer would slow wrk down. It counts statuses from 400 up by itself.
function done(summary, latency)
  local errors = summary.errors
  local form = '\nREPORT {"requests":%d,"microseconds":%d,"bytes":%d,"refused":%d,"socket_errors":%d,'
    .. '"p50":%d,"p99":%d,"p999":%d}'
  print(string.format(form, summary.requests, summary.duration, summary.bytes, errors.status,
    errors.connect + errors.read + errors.write + errors.timeout,
    latency:percentile(50), latency:percentile(99), latency:percentile(99.9)))
end
