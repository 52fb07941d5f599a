-- Cancels an unfinished task. All but `ttl_s` are those of `keep_failure`.

local ttl_s, short_task, short_ttl_s, max_failures = unpack(ARGV, 6)

if not unfinished then return 0 end
-- A worker that has it removes the message when it has let go; if it died, another one deletes what it left.
if status == 'PENDING' then from_queue() end
finish('CANCELLED', ttl_s)
forget_images()
keep_failure(short_task, short_ttl_s, ttl_s, max_failures)
return 1
