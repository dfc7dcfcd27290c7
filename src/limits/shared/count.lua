-- Takes from several limits at once: from all of them, or from none.
--
-- KEYS: one per limit. ARGV, seven per limit: "b" (bucket) or "w" (sliding window); count; period in microseconds; capacity; how much is
-- needed at least; how much is wanted at most; how much is given back first (buckets only).
-- Answers 1 or 0 (taken or not), and for each limit: how much was taken, what is left, microseconds until `need` would be there (or, once
-- taken, until 1 is), microseconds until everything is.
--
-- A bucket is the level of what was taken and has not leaked yet, in requests, and the moment of that level; a window is the beginning of
-- its period and the counts of this period and the one before. The clock is this server's, so that gateways need not agree on the time.
-- Numbers are doubles: exact for microseconds, and for levels to a billionth of a request.

local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local answer, new, all = { 1 }, {}, true

for i = 1, #KEYS do
  local at = (i - 1) * 7
  local is_bucket = ARGV[at + 1] == 'b'
  local count, per, capacity = tonumber(ARGV[at + 2]), tonumber(ARGV[at + 3]), tonumber(ARGV[at + 4])
  local need, want, back = tonumber(ARGV[at + 5]), tonumber(ARGV[at + 6]), tonumber(ARGV[at + 7])
  local stored = redis.call('GET', KEYS[i])
  local known = stored and string.len(stored) == (is_bucket and 16 or 24)
  local used, begin, current, previous = 0, now, 0, 0

  if is_bucket then
    if known then
      local level, moment = struct.unpack('<dd', stored)
      used = math.max(0, level - math.max(0, now - moment) * count / per - back)
    end
  else
    if known then
      begin, current, previous = struct.unpack('<ddd', stored)
      local gone = now - begin
      if gone >= 2 * per then
        begin, current, previous = now, 0, 0
      elseif gone >= per then
        begin, current, previous = begin + per, 0, current
      end
    end
    used = current + math.ceil(previous * math.min(per, per - (now - begin)) / per)
  end

  -- A millionth of a request, for what division has rounded.
  local free = math.max(0, math.floor(capacity - used + 0.000001))
  local taken = 0
  if free >= need then
    taken = math.min(free, math.max(need, want))
  else
    all = false
  end
  new[i] = { is_bucket, used, begin, current, previous, taken, back, count, per, capacity, need }
end

if not all then answer[1] = 0 end

for i = 1, #KEYS do
  local is_bucket, used, begin, current, previous, taken, back, count, per, capacity, need = unpack(new[i])
  if not all then taken = 0 end
  used, current = used + taken, current + taken
  local next_need, next, full = all and 1 or need, 0, 0
  local left = math.max(0, math.floor(capacity - used + 0.000001))

  if is_bucket then
    if left < next_need then next = math.ceil((used + next_need - capacity) * per / count) end
    full = math.ceil(used * per / count)
    if taken > 0 or back > 0 then
      redis.call('SET', KEYS[i], struct.pack('<dd', used, now), 'PX', math.ceil(full / 1000) + 1)
    end
  else
    local rest = per - (now - begin)
    if left < next_need then
      if current + next_need <= capacity then
        next = math.ceil(rest - (capacity - current - next_need) * per / math.max(1, previous))
      else
        next = math.ceil(rest + per - (capacity - next_need) * per / math.max(1, current))
      end
      next = math.max(0, next)
    end
    if current > 0 then full = math.ceil(rest + per) elseif previous > 0 then full = math.ceil(rest) end
    if taken > 0 then
      redis.call('SET', KEYS[i], struct.pack('<ddd', begin, current, previous), 'PX', math.ceil(full / 1000) + 1)
    end
  end

  answer[#answer + 1] = taken
  answer[#answer + 1] = left
  answer[#answer + 1] = next
  answer[#answer + 1] = full
end

return answer
