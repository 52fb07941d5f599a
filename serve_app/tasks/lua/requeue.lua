-- Queues a dead letter again.

local task, ttl_s = unpack(ARGV, 6)  -- with its new deadline
if status ~= 'FAILED' or redis.call('ZREM', dead, task_id) == 0 then return 0 end
redis.call('HDEL', record, 'outcome', 'started_at', 'finished_at', 'attempts', 'dead')
redis.call('HSET', record, 'task', task)
redis.call('EXPIRE', record, ttl_s)
to_queue(lane())
return 1
