-- Renews a lease, also one that expired and that no other process has taken.

local lease_ms = unpack(ARGV, 6)

if not may_write() then return 0 end
redis.call('SET', lease, lease_owner, 'PX', lease_ms)
return 1
