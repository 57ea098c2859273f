-- The requests that wrk sends, and its results as one line of JSON.
--   wrk … -s requests.lua URL -- KIND RUN FILE
-- KIND: "get" repeats one request; "package" registers a new package each time; "stranger" sends
-- a new client address each time, so that the throttle never refuses one; "paths" asks for each
-- path in FILE in turn. RUN is unique per run: it makes the names of packages unique.

local started = 0

function setup(thread)
  thread:set("number", started)
  started = started + 1
end

function init(arguments)
  local kind, run, file, count = arguments[1], arguments[2], arguments[3], 0

  if kind == "package" then
    wrk.method = "POST"
    wrk.headers["Content-Type"] = "application/json"
    request = function()
      count = count + 1
      local name = string.format("p%s-%d-%d", run, number, count)
      return wrk.format(nil, nil, nil, '{"name": "' .. name .. '", "version": "1.0.0"}')
    end
  elseif kind == "stranger" then
    request = function()
      count = count + 1
      local address = string.format("10.%d.%d.%d", number, count / 250 % 250, count % 250)
      wrk.headers["X-Forwarded-For"] = address
      return wrk.format()
    end
  elseif kind == "paths" then
    local requests = {}
    for path in io.lines(file) do
      requests[#requests + 1] = wrk.format(nil, path)
    end
    request = function()
      count = count % #requests + 1
      return requests[count]
    end
  end
end

function done(summary, latency)
  local errors = summary.errors
  io.write(string.format(
    '{"requests": %d, "seconds": %f, "p50": %f, "p99": %f, "refused": %d, "broken": %d}\n',
    summary.requests, summary.duration / 1e6,
    latency:percentile(50) / 1000, latency:percentile(99) / 1000,
    errors.status, errors.connect + errors.read + errors.write + errors.timeout))
end
