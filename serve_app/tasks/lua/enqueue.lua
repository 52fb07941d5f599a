-- Puts a task that its creator has leased into the queue; returns the fields of the record, or none.

local behind = unpack(ARGV, 6)  -- among the tasks of low priority: 0 or 1
if status ~= 'PENDING' or not leased() then return {} end
to_queue(behind == '1' and 'low' or lane())
return redis.call('HGETALL', record)
