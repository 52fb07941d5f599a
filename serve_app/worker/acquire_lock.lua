local lock = unpack(KEYS)
local life_ms = unpack(ARGV)
return redis.call('SET', lock, 1, 'NX', 'PX', life_ms)
