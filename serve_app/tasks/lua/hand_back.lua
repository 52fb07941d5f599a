-- Returns a task that its caller was running to the queue.

if status ~= 'STARTED' or not leased() then return 0 end
to_queue(lane())
redis.call('HINCRBY', record, 'attempts', -1)
return 1
