-- Adds seconds to what an owner used, which decays; returns the sum as of now.

local use = unpack(KEYS)
local added_s, half_life_s, ttl_s = unpack(ARGV)
local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000
local seconds, at = string.match(redis.call('GET', use) or '', '^(%S+) (%S+)$')
local sum = (seconds or 0) * 0.5 ^ ((now - (at or now)) / half_life_s) + added_s
if tonumber(added_s) > 0 then redis.call('SET', use, sum .. ' ' .. string.format('%.3f', now), 'EX', ttl_s) end
return tostring(sum)
