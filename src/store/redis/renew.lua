#!lua
-- Lets a lease last its time to live from now, if it is the token's.
-- KEYS  lease    ARGV  token, time to live in ms    gives 1, or 0: it is not
local lease = redis.call('GET', KEYS[1])
if not lease or string.sub(lease, 1, #ARGV[1]) ~= ARGV[1] then return 0 end
return redis.call('PEXPIRE', KEYS[1], ARGV[2])
