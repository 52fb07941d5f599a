-- The queue at one moment. `of_owner`, `line`, `later`: of one owner its unfinished queued tasks, the one that waits in
-- line, those behind it. `message_id`, `priority`, `task_id`: of the task whose position is asked for, or ''.
-- `lost_before`: unix time before which an unfinished task was lost. `positions`: 1 if they are asked for, else 0.
-- `app`: the one whose time of an image is asked for, or ''.

local normal, low, throughput, of_owner, line, later = unpack(KEYS)
local group, most, lost_before, message_id, priority, task_id, positions, app = unpack(ARGV)

local function delivered(stream)
    local groups = redis.pcall('XINFO', 'GROUPS', stream)
    if groups.err then return 0, '0-0' end  -- no stream yet
    for _, fields in ipairs(groups) do
        local described = {}
        for at = 1, #fields, 2 do described[fields[at]] = fields[at + 1] end
        if described['name'] == group then return described['pending'], described['last-delivered-id'] end
    end
    return 0, '0-0'
end

local function count(stream, after, last)
    return #redis.call('XRANGE', stream, '(' .. after, last, 'COUNT', most)
end

local normal_pending, normal_last = delivered(normal)
local low_pending, low_last = delivered(low)
local paces = redis.call('HMGET', throughput, 'task_s', 'image_s', 'image_s:' .. app)
local ahead, normal_waiting, low_waiting = false, 0, 0
if message_id ~= '' then
    ahead = priority == 'low' and count(low, low_last, message_id) or count(normal, normal_last, message_id)
end
if positions == '1' and (ahead or paces[1]) then  -- counting a thousand takes a millisecond
    normal_waiting, low_waiting = count(normal, normal_last, '+'), count(low, low_last, '+')
end
redis.call('ZREMRANGEBYSCORE', of_owner, '-inf', lost_before)
return {
    redis.call('XLEN', normal) + redis.call('XLEN', low), normal_pending + low_pending,
    normal_waiting, low_waiting, ahead,
    redis.call('ZRANK', later, task_id), redis.call('ZCARD', of_owner), redis.call('EXISTS', line), paces[1], paces[2],
    paces[3],
}
