#!lua
-- Takes the first free slot of a name.
--
-- KEYS  head, then the lease of each slot
-- ARGV  format, token, time to live in ms, the holder's note
-- gives {"granted", slot, fence}, or {"held", slot, its lease, its ms left} of the one that expires first

local stored = redis.call('HMGET', KEYS[1], 'format', 'fence', 'slots')
if stored[1] and tonumber(stored[1]) ~= tonumber(ARGV[1]) then
  return redis.error_reply('FORMAT ' .. stored[1])
end
local last = tonumber(stored[2] or 0)
if not last or (stored[1] and not stored[2]) or not (last >= 0 and last < 2 ^ 53) then
  return redis.error_reply('DAMAGED ' .. KEYS[1] .. ': no fence')
end

-- The server's time keeps fences growing when it has lost the last one.
local time = redis.call('TIME')
local fence = string.format('%.0f', math.max(last + 1, time[1] * 1000000 + time[2]))
local lease = ARGV[2] .. ' ' .. fence .. ' ' .. ARGV[4]

local slot, held, left
for n = 1, #KEYS - 1 do
  local found = redis.call('GET', KEYS[1 + n])
  if not found then
    redis.call('HSET', KEYS[1], 'format', ARGV[1], 'fence', fence,
      'slots', math.max(tonumber(stored[3]) or 0, #KEYS - 1))
    redis.call('SET', KEYS[1 + n], lease, 'NX', 'PX', ARGV[3])
    return { 'granted', n, fence }
  end
  local ms = redis.call('PTTL', KEYS[1 + n])
  if ms < 0 then
    return redis.error_reply('DAMAGED ' .. KEYS[1 + n] .. ': a lease that never ends')
  end
  if not left or ms < left then
    slot, held, left = n, found, ms
  end
end
return { 'held', slot, held, left }
