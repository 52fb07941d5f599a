-- Comes before each script that changes a batch: the steps of the changes.

local record, items, waiting, queued, ended, active, reserved, webhooks = unpack(KEYS)
local batch_id, now, kept_s = unpack(ARGV)  -- kept_s: for how long a batch stays after its end
local status = redis.call('HGET', record, 'status')

-- What is written lives as long as the record of the batch.
local function expire_with_record(key)
    redis.call('EXPIREAT', key, redis.call('EXPIRETIME', record))
end

local function end_item(custom_id, ending)
    local index = redis.call('HINCRBY', record, 'ended', 1)
    redis.call('HINCRBY', record, 'ended:' .. ending, 1)
    redis.call('ZADD', ended, index, ending .. ' ' .. custom_id)
    expire_with_record(ended)
end

-- Once nothing can be added any more and all has ended. Its keys then live as long as results do.
local function finish_if_done()
    if status == 'OPEN' or redis.call('HEXISTS', record, 'finished_at') == 1 then return end
    if redis.call('EXISTS', waiting, queued) > 0 then return end
    redis.call('HSET', record, 'finished_at', now)
    redis.call('ZREM', active, batch_id)
    if redis.call('HEXISTS', record, 'delivery') == 1 then redis.call('ZADD', webhooks, now, batch_id) end
    for _, key in ipairs({record, items, ended}) do redis.call('EXPIRE', key, kept_s) end
end
