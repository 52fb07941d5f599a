-- Records a task, leased by its creator; or tells which task has its idempotency key, and the digest of its body.
-- `key_ttl_s`: the idempotency key must not outlive the record. `has_webhook`: 0 or 1. `body_digest` may be empty.

local task, new_status, lease_ms, ttl_s, priority, body_digest, key_ttl_s, has_webhook, task_owner = unpack(ARGV, 6)

if body_digest ~= '' then
    local known = redis.call('GET', idempotency)
    if known and redis.call('EXISTS', record_of(string.match(known, '%S+'))) == 1 then return known end
    redis.call('SET', idempotency, task_id .. ' ' .. body_digest, 'EX', key_ttl_s)
end
redis.call('HSET', record, 'task', task, 'status', new_status, 'priority', priority, 'owner', task_owner)
if priority == 'low' then redis.call('HSET', record, 'asked', 'low') end
if new_status == 'STARTED' then redis.call('HSET', record, 'started_at', now) end
if has_webhook == '1' then redis.call('HSET', record, 'delivery', '{}') end
redis.call('EXPIRE', record, ttl_s)
redis.call('SET', lease, lease_owner, 'PX', lease_ms)
return task_id .. ' ' .. body_digest
