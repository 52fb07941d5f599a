-- Comes before each script that changes a record: reads the record, and defines the steps of the changes.

local record, lease, normal_queue, low_queue, open, dead, changes, webhooks, throughput, idempotency = unpack(KEYS)
local task_id, lease_owner, now, max_open_s, max_changes = unpack(ARGV)
local status = redis.call('HGET', record, 'status')
local unfinished = status == 'PENDING' or status == 'STARTED'
local queue = redis.call('HGET', record, 'priority') == 'low' and low_queue or normal_queue
local owner = redis.call('HGET', record, 'owner') or ''
local of_owner, line, later = open .. ':of:' .. owner, open .. ':line:' .. owner, open .. ':later:' .. owner

local function record_of(other)
    return string.sub(record, 1, -#task_id - 1) .. other
end

local function leased()
    return redis.call('GET', lease) == lease_owner
end

-- A task whose lease expired still belongs to its last owner until another takes it, but not while it is queued.
local function may_write()
    if not unfinished then return false end
    local other = redis.call('GET', lease)
    if other then return other == lease_owner end
    return status == 'STARTED' or redis.call('HEXISTS', record, 'message_id') == 0
end

local function changed()
    redis.call('HINCRBY', record, 'revision', 1)
    redis.call('XADD', changes, 'MAXLEN', '~', max_changes, '*', 'task_id', task_id)
end

-- Owners take turns: the normal queue has one task of each owner. Its other tasks wait in the queue of low priority.
local function lane()
    if redis.call('HGET', record, 'asked') == 'low' then return 'low' end
    if redis.call('HEXISTS', record, 'started_at') == 1 then return 'normal' end  -- it has had its turn
    for _, other in ipairs(redis.call('ZRANGE', line, 0, -1)) do
        if other == task_id or redis.call('HGET', record_of(other), 'status') ~= 'PENDING' then
            redis.call('ZREM', line, other)
        end
    end
    local back = redis.call('EXISTS', line) == 1
    redis.call('ZADD', back and later or line, now, task_id)
    redis.call('EXPIRE', back and later or line, max_open_s)
    return back and 'low' or 'normal'
end

-- The owner's oldest waiting task takes the turn of this one. If a worker has just taken it, its message is delivered
-- twice, and the second one is dropped.
local function leave_line()
    redis.call('ZREM', later, task_id)
    if redis.call('ZREM', line, task_id) == 0 then return end
    local first = redis.call('ZPOPMIN', later)[1]
    while first do
        local other = record_of(first)
        local message = redis.call('HGET', other, 'message_id')
        if message and redis.call('HGET', other, 'status') == 'PENDING' then
            redis.call('XDEL', low_queue, message)
            message = redis.call('XADD', normal_queue, '*', 'task_id', first)
            redis.call('HSET', other, 'priority', 'normal', 'message_id', message)
            redis.call('ZADD', line, now, first)
            redis.call('EXPIRE', line, max_open_s)
            return
        end
        first = redis.call('ZPOPMIN', later)[1]
    end
end

local function to_queue(priority)
    local message = redis.call('XADD', priority == 'low' and low_queue or normal_queue, '*', 'task_id', task_id)
    redis.call('HSET', record, 'status', 'PENDING', 'message_id', message, 'priority', priority)
    redis.call('ZADD', open, now, task_id)
    redis.call('ZADD', of_owner, now, task_id)
    redis.call('EXPIRE', of_owner, max_open_s)
    redis.call('DEL', lease)
    changed()
end

local function from_queue()
    local message = redis.call('HGET', record, 'message_id')
    if message then redis.call('XDEL', queue, message) end
end

local function forget_images()
    for _, field in ipairs(redis.call('HKEYS', record)) do
        if string.sub(field, 1, 7) == 'avatar:' then redis.call('HDEL', record, field) end
    end
end

local function finish(final, ttl_s)
    redis.call('HSET', record, 'status', final, 'finished_at', now)
    redis.call('EXPIRE', record, ttl_s)
    redis.call('DEL', lease)
    redis.call('ZREM', open, task_id)
    redis.call('ZREM', of_owner, task_id)
    leave_line()
    if redis.call('HEXISTS', record, 'delivery') == 1 then
        redis.call('HSET', record, 'delivery', '{}')
        redis.call('ZADD', webhooks, now, task_id)
    end
    changed()
end

-- Of each owner's failures only the newest are kept. One that was the answer to its request is short, and not for long.
local function keep_failure(short_task, short_ttl_s, ttl_s, most)
    local was_queued = redis.call('HEXISTS', record, 'message_id') == 1
    if not was_queued then
        redis.call('HSET', record, 'task', short_task)
        redis.call('EXPIRE', record, short_ttl_s)
        redis.call('EXPIRE', idempotency, short_ttl_s)
        ttl_s = short_ttl_s
    end
    local failures = open .. (was_queued and ':failed:' or ':answered:') .. owner
    redis.call('ZREMRANGEBYSCORE', failures, '-inf', now - ttl_s)
    redis.call('ZADD', failures, now, task_id)
    redis.call('EXPIRE', failures, ttl_s)
    for _, other in ipairs(redis.call('ZRANGE', failures, 0, -1 - most)) do
        if not redis.call('ZSCORE', webhooks, other) then redis.call('UNLINK', record_of(other)) end  -- else it is due
        redis.call('ZREM', failures, other)
    end
end

-- An exponential moving average, which expires an hour after the last measurement.
local function measured(what, seconds)
    local before = redis.call('HGET', throughput, what)
    redis.call('HSET', throughput, what, before and before * 0.8 + seconds * 0.2 or seconds)
    redis.call('EXPIRE', throughput, 3600)
end
