-- Records a batch; returns '', or the digest of the body with which the same one was opened before, or 'full' where its
-- owner has `most` that are not finished. `has_webhook`: 0 or 1.

local record, active, of_owner = unpack(KEYS)
local batch_id, batch, digest, now, ttl_s, most, owner, has_webhook = unpack(ARGV)

if redis.call('EXISTS', record) == 1 then return redis.call('HGET', record, 'digest') end
redis.call('ZREMRANGEBYSCORE', of_owner, '-inf', now - ttl_s)
local unfinished = 0
for _, other in ipairs(redis.call('ZRANGE', of_owner, 0, -1)) do
    if redis.call('ZSCORE', active, other) then unfinished = unfinished + 1 end
end
if unfinished >= tonumber(most) then return 'full' end
redis.call('HSET', record, 'batch', batch, 'digest', digest, 'status', 'OPEN', 'added', 0, 'bytes', 0, 'owner', owner)
if has_webhook == '1' then redis.call('HSET', record, 'delivery', '{}') end
redis.call('EXPIRE', record, ttl_s)
redis.call('ZADD', active, now, batch_id)
redis.call('ZADD', of_owner, now, batch_id)
redis.call('EXPIRE', of_owner, ttl_s)
return ''
