-- Leases a task, to run it (STARTED) or to put it into the queue (PENDING); returns a `Claim`.

local lease_ms, new_status = unpack(ARGV, 6)

if not unfinished then return 'over' end
if not redis.call('SET', lease, lease_owner, 'NX', 'PX', lease_ms) then return 'held' end
if new_status == 'STARTED' then
    redis.call('HSET', record, 'status', 'STARTED')
    redis.call('HSETNX', record, 'started_at', now)
    redis.call('HINCRBY', record, 'attempts', 1)
    leave_line()
    changed()
end
return 'ours'
