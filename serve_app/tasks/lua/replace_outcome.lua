-- Only of a finished task; an expired record is not created again.

local outcome = unpack(ARGV, 6)

if status and not unfinished then redis.call('HSET', record, 'outcome', outcome) end
