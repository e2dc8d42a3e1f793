-- Requests for the comparison, one scenario per run. Called as
--   wrk … -s requests.lua URL -- SCENARIO ACCOUNTS RUN ITEMS
-- RUN makes the keys of this run unlike those of any other; ITEMS is the length of a batch.
-- Every request has a fresh key, unique over threads; accounts are drawn uniformly.

local threads = 0

function setup(thread)
  thread:set("thread_number", threads)
  threads = threads + 1
end

local random, format, concat = math.random, string.format, table.concat
local accounts, prefix, items, count

local function head(method, path, length)
  return method .. " " .. path .. " HTTP/1.1\r\nHost: meed\r\nContent-Type: application/json\r\nContent-Length: "
    .. length .. "\r\n"
end

local function fresh()
  count = count + 1
  return prefix .. format("%08x", count)
end

local function post(operation, body_head)
  -- All bodies have one length, so the head after the account is a constant.
  local length = #body_head + #prefix + 8 + 2
  local after = "/" .. operation .. " HTTP/1.1\r\nHost: meed\r\nContent-Type: application/json\r\nContent-Length: "
    .. length .. "\r\nIdempotency-Key: "
  return function()
    local key = fresh()
    return "POST /api/v1/points/m-" .. random(accounts) .. after .. key .. "\r\n\r\n" .. body_head .. key .. '"}'
  end
end

local function balance()
  return function()
    return "GET /api/v1/points/m-" .. random(accounts) .. "/balance HTTP/1.1\r\nHost: meed\r\n\r\n"
  end
end

local function batch()
  local parts = {}
  return function()
    for item = 1, items do
      parts[item] = '{"op":"earn","account":"m-' .. random(accounts) .. '","points":100,"idempotency_key":"'
        .. fresh() .. '"}'
    end
    local body = '{"items":[' .. concat(parts, ",") .. "]}"
    return head("POST", "/api/v1/batch", #body) .. "\r\n" .. body
  end
end

function init(arguments)
  local scenario = arguments[1]
  accounts, items, count = tonumber(arguments[2]), tonumber(arguments[4]), 0
  prefix = format("%s-%02x-", arguments[3], thread_number)
  math.randomseed(thread_number + 1)
  if scenario == "earn" then
    request = post("earn", '{"points":100,"source":"PURCHASE","reference_id":"')
  elseif scenario == "redeem" then
    request = post("redeem", '{"points":1,"source":"REWARDS","reference_id":"')
  elseif scenario == "balance" then
    request = balance()
  elseif scenario == "batch" then
    request = batch()
  else
    error("unknown scenario " .. tostring(scenario))
  end
end

function done(summary, latency, _)
  local errors = summary.errors
  print(format("figures requests=%d duration_us=%d bytes=%d connect=%d read=%d write=%d status=%d timeout=%d"
    .. " p50_us=%d p90_us=%d p99_us=%d p999_us=%d max_us=%d",
    summary.requests, summary.duration, summary.bytes, errors.connect, errors.read, errors.write, errors.status,
    errors.timeout, latency:percentile(50), latency:percentile(90), latency:percentile(99),
    latency:percentile(99.9), latency.max))
end
