-- Records an attempt to call the webhook of a batch.

local delivery, again_at = unpack(ARGV, 4)  -- '': no further attempt
if again_at == '' or not status then
    redis.call('ZREM', webhooks, batch_id)
else
    redis.call('ZADD', webhooks, again_at, batch_id)
end
if status then redis.call('HSET', record, 'delivery', delivery) end
