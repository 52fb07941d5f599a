-- Records an attempt to call a webhook.

local delivery, again_at = unpack(ARGV, 6)  -- '': no further attempt
if again_at == '' or not status then
    redis.call('ZREM', webhooks, task_id)
else
    redis.call('ZADD', webhooks, again_at, task_id)
end
if status then redis.call('HSET', record, 'delivery', delivery) end
