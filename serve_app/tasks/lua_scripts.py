"""The changes of a task's record, each an atomic Lua script: of two processes that try the same, one wins.

Every script gets the same keys and starts with BEGIN, which reads the record and defines the steps of the changes. All
but CREATE also work when the broker's memory is full, so that tasks can end then.
"""

BEGIN = """
local record, lease, normal_queue, low_queue, open, dead, changes, webhooks, throughput = unpack(KEYS)
local task_id, lease_owner, now = ARGV[1], ARGV[2], ARGV[3]
local max_open_s, max_changes = ARGV[#ARGV - 1], ARGV[#ARGV]  -- after the arguments of the script itself
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
        redis.call('EXPIRE', KEYS[10], short_ttl_s)
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
"""

# KEYS[10]: idempotency; ARGV: task, status, lease_ms, ttl_s, priority, body digest or '', ttl_s of the idempotency key,
# which must not outlive the record, has a webhook: 0 or 1, owner
CREATE = """
if ARGV[9] ~= '' then
    local known = redis.call('GET', KEYS[10])
    if known and redis.call('EXISTS', record_of(string.match(known, '%S+'))) == 1 then return known end
    redis.call('SET', KEYS[10], task_id .. ' ' .. ARGV[9], 'EX', ARGV[10])
end
redis.call('HSET', record, 'task', ARGV[4], 'status', ARGV[5], 'priority', ARGV[8], 'owner', ARGV[12])
if ARGV[8] == 'low' then redis.call('HSET', record, 'asked', 'low') end
if ARGV[5] == 'STARTED' then redis.call('HSET', record, 'started_at', now) end
if ARGV[11] == '1' then redis.call('HSET', record, 'delivery', '{}') end
redis.call('EXPIRE', record, ARGV[7])
redis.call('SET', lease, lease_owner, 'PX', ARGV[6])
return task_id .. ' ' .. ARGV[9]
"""

# ARGV: among the tasks of low priority: 0 or 1. The fields of the record, or none.
ENQUEUE = """
if status ~= 'PENDING' or not leased() then return {} end
to_queue(ARGV[4] == '1' and 'low' or lane())
return redis.call('HGETALL', record)
"""

# ARGV: lease_ms, status to set
CLAIM = """
if not unfinished then return 'over' end
if not redis.call('SET', lease, lease_owner, 'NX', 'PX', ARGV[4]) then return 'held' end
if ARGV[5] == 'STARTED' then
    redis.call('HSET', record, 'status', 'STARTED')
    redis.call('HSETNX', record, 'started_at', now)
    redis.call('HINCRBY', record, 'attempts', 1)
    leave_line()
    changed()
end
return 'ours'
"""

# ARGV: lease_ms. An expired lease that no other process has taken is renewed.
RENEW = """
if not may_write() then return 0 end
redis.call('SET', lease, lease_owner, 'PX', ARGV[4])
return 1
"""

# ARGV: image index, its avatar
NOTE_IMAGE = """
if not unfinished then return end
redis.call('HSET', record, 'avatar:' .. ARGV[4], ARGV[5])
changed()
"""

# KEYS[10]: idempotency; ARGV: status, outcome, ttl_s, forget the idempotency key: 0 or 1, a dead letter: 0 or 1,
# images; those of `keep_failure`: short task, short ttl_s, at most
FINISH = """
if not may_write() then return 0 end
if ARGV[4] == 'SUCCESS' and redis.call('HGET', record, 'attempts') == '1' then  -- by a worker, at the first attempt
    local seconds = now - redis.call('HGET', record, 'started_at')
    measured('task_s', seconds)
    measured('image_s', seconds / ARGV[9])
end
redis.call('HSET', record, 'outcome', ARGV[5])
finish(ARGV[4], ARGV[6])
if ARGV[7] == '1' then redis.call('DEL', KEYS[10]) end
if ARGV[8] == '1' then
    redis.call('HSET', record, 'dead', 1)
    redis.call('ZADD', dead, now, task_id)
else
    forget_images()
    if ARGV[4] ~= 'SUCCESS' then keep_failure(ARGV[10], ARGV[11], ARGV[6], ARGV[12]) end
end
return 1
"""

HAND_BACK = """
if status ~= 'STARTED' or not leased() then return 0 end
to_queue(lane())
redis.call('HINCRBY', record, 'attempts', -1)
return 1
"""

# KEYS[10]: idempotency; ARGV: ttl_s; those of `keep_failure`: short task, short ttl_s, at most
CANCEL = """
if not unfinished then return 0 end
finish('CANCELLED', ARGV[4])
forget_images()
keep_failure(ARGV[5], ARGV[6], ARGV[4], ARGV[7])
from_queue()
return 1
"""

# ARGV: outcome. Only of a finished task; an expired record is not created again.
REPLACE_OUTCOME = """
if status and not unfinished then redis.call('HSET', record, 'outcome', ARGV[4]) end
"""

# ARGV: the lost message. Nothing is done if the task was queued or leased again since that was found.
REQUEUE_LOST = """
if not unfinished then
    redis.call('ZREM', open, task_id)
    return 0
end
if redis.call('EXISTS', lease) == 1 or redis.call('HGET', record, 'message_id') ~= ARGV[4] then return 0 end
from_queue()
to_queue(lane())
return 1
"""

# ARGV: task with its new deadline, ttl_s
REQUEUE = """
if status ~= 'FAILED' or redis.call('ZREM', dead, task_id) == 0 then return 0 end
redis.call('HDEL', record, 'outcome', 'started_at', 'finished_at', 'attempts', 'dead')
redis.call('HSET', record, 'task', ARGV[4])
redis.call('EXPIRE', record, ARGV[5])
to_queue(lane())
return 1
"""

# KEYS: webhooks, owners; ARGV: now, end of the leases, at most, at most of an owner, prefix of records, when one that
# waits is due again, then the owners that this process calls webhooks of, each with their number
DUE = """
local webhooks, owners = KEYS[1], KEYS[2]
local now, most, most_of_owner = ARGV[1], tonumber(ARGV[3]), tonumber(ARGV[4])
local calls = {}
for index = 7, #ARGV, 2 do calls[ARGV[index]] = tonumber(ARGV[index + 1]) end

local function line(owner) return webhooks .. ':of:' .. owner end

-- What is due joins the line of its owner. It stays in `webhooks` too, so that it is found again if the line is lost.
local due = redis.call('ZRANGE', webhooks, '-inf', now, 'BYSCORE', 'LIMIT', 0, 1000, 'WITHSCORES')
for index = 1, #due, 2 do
    local owner = redis.call('HGET', ARGV[5] .. due[index], 'owner') or ''
    redis.call('ZADD', line(owner), 'NX', due[index + 1], due[index])
    redis.call('ZADD', owners, 'NX', due[index + 1], owner)
    redis.call('ZADD', webhooks, ARGV[6], due[index])
end

-- Owners take turns, those first that had none for longest.
local leased, again = {}, true
while again do
    again = false
    for _, owner in ipairs(redis.call('ZRANGE', owners, 0, -1)) do
        if #leased < most and (calls[owner] or 0) < most_of_owner then
            local task_id = redis.call('ZPOPMIN', line(owner))[1]
            if task_id then
                redis.call('ZADD', webhooks, ARGV[2], task_id)
                redis.call('ZADD', owners, now, owner)
                calls[owner] = (calls[owner] or 0) + 1
                table.insert(leased, {task_id, owner})
                again = true
            end
            if redis.call('EXISTS', line(owner)) == 0 then redis.call('ZREM', owners, owner) end
        end
    end
end
return leased
"""

# ARGV: delivery, when to try again or ''
DELIVERED = """
if ARGV[5] == '' or not status then
    redis.call('ZREM', webhooks, task_id)
else
    redis.call('ZADD', webhooks, ARGV[5], task_id)
end
if status then redis.call('HSET', record, 'delivery', ARGV[4]) end
"""
