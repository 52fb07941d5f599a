-- Takes images of a token off those counted for a day, where they were counted.

local count = unpack(KEYS)
local images = unpack(ARGV)
if redis.call('EXISTS', count) == 1 then redis.call('DECRBY', count, images) end
