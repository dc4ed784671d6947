#!lua
-- Gives a lease back, if it is the token's, and wakes who waits for one.
-- KEYS  lease    ARGV  token, channel    gives 1, or 0: it is not
local lease = redis.call('GET', KEYS[1])
if not lease or string.sub(lease, 1, #ARGV[1]) ~= ARGV[1] then return 0 end
redis.call('DEL', KEYS[1])
redis.call('PUBLISH', ARGV[2], '')
return 1
