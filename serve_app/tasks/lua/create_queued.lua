-- Records a task of low priority and puts it into the queue, if `member` is still in `waiting`, from where it goes to
-- `queued`; `reserved` loses the task. All in one step: a process that dies leaves it either waiting or queued.

local waiting, queued, reserved = unpack(KEYS, 11)
local task, ttl_s, has_webhook, task_owner, member = unpack(ARGV, 6)

local score = redis.call('ZSCORE', waiting, member)
if not score or status then return 0 end
local expires = redis.call('EXPIRETIME', waiting)  -- of the whole batch; a set that is empty is gone
redis.call('ZREM', waiting, member)
redis.call('ZADD', queued, score, member)
redis.call('EXPIREAT', queued, expires)
redis.call('ZREM', reserved, task_id)
owner, of_owner = task_owner, open .. ':of:' .. task_owner
redis.call('HSET', record, 'task', task, 'owner', owner, 'asked', 'low')
if has_webhook == '1' then redis.call('HSET', record, 'delivery', '{}') end
redis.call('EXPIRE', record, ttl_s)
to_queue('low')
return 1
