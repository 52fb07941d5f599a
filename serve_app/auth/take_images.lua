-- Counts images of a token for today; returns -1, or how many there were if they do not fit.

local count = unpack(KEYS)
local images, limit, ttl_s = unpack(ARGV)
local taken = tonumber(redis.call('GET', count) or 0)
if taken + images > tonumber(limit) then return taken end
redis.call('SET', count, taken + images, 'EX', ttl_s)
return -1
