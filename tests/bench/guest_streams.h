// bench/guest_streams.h — what the host does on streams to the guest, with its times; the guest's side of "ping", "pull" and "push" is
// guest/main.cc.
#pragma once

#include <functional>
#include <string>

#include "base/fd.h"

namespace wyvern::bench {

using Connector = std::function<Result<UniqueFd>(uint32_t port)>;

// Connects until the agent answers Hello; `give_up`: the guest is gone.
Result<> WaitForAgent(const Connector& connector, const std::function<bool()>& give_up,
                      int64_t start_ns);

// "ping": `count` bytes there and back one by one; "pull": `count` MiB from the guest; "push": to it.
Result<> RunStream(const Connector& connector, const std::string& kind, uint64_t count);

Result<UniqueFd> ConnectHostVsock(uint32_t cid, uint32_t port);

}  // namespace wyvern::bench
