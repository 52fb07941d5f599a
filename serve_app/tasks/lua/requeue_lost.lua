-- Queues a task again whose message is lost, unless it was queued or leased again since that was found.

local lost_message = unpack(ARGV, 6)

if not unfinished then
    redis.call('ZREM', open, task_id)
    return 0
end
if redis.call('EXISTS', lease) == 1 or redis.call('HGET', record, 'message_id') ~= lost_message then return 0 end
from_queue()
to_queue(lane())
return 1
