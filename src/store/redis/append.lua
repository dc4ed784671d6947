#!lua
-- Appends entries to a job's ledger and replaces its sums, if nobody else has appended since they were read.
--
-- KEYS  head, entries, lease (with a token only)
-- ARGV  format, expected revision, the sums, token or "", how many entries are kept, then the entries
-- gives "done", "moved", or "lost": the lease is not the token's

local head = redis.call('HMGET', KEYS[1], 'format', 'revision', 'fence', 'totals')
if head[1] and tonumber(head[1]) ~= tonumber(ARGV[1]) then
  return redis.error_reply('FORMAT ' .. head[1])
end
local revision = tonumber(head[2] or 0)
if not revision or (head[2] and not head[4]) then
  return redis.error_reply('DAMAGED ' .. KEYS[1] .. ': a sum is missing')
end
if ARGV[4] ~= '' then
  local lease = redis.call('GET', KEYS[3])
  if not lease or string.sub(lease, 1, #ARGV[4]) ~= ARGV[4] then return 'lost' end
end
if revision ~= tonumber(ARGV[2]) then return 'moved' end
local last = redis.call('XREVRANGE', KEYS[2], '+', '-', 'COUNT', 1)[1]
if last and tonumber(string.match(last[1], '^%d+')) > revision then
  return redis.error_reply('DAMAGED ' .. KEYS[1] .. ': there are more entries than it counts')
end

redis.call('HSET', KEYS[1], 'format', ARGV[1], 'revision', string.format('%.0f', revision + #ARGV - 5),
  'totals', ARGV[3], 'fence', head[3] or '0')
for n = 6, #ARGV do
  redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[5], string.format('%.0f-0', revision + n - 5), 'e', ARGV[n])
end
return 'done'
