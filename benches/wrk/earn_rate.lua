-- Earns with one key each, on 100,000 accounts at random; keys are unlike those of other runs. For cql_rate.sh and
-- kafka_cost.sh; requests.lua gives every earn two keys.
local threads = 0
function setup(thread) thread:set("number", threads); threads = threads + 1 end
function init() math.randomseed(os.time() + number); count = 0 end
function request()
  count = count + 1
  local body = '{"points":10,"reference_id":"' .. number .. '-' .. os.time() .. '-' .. count .. '"}'
  return wrk.format("POST", "/api/v1/points/m-" .. math.random(100000) .. "/earn", {["Content-Type"] = "application/json"}, body)
end
