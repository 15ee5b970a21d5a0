// stdio/fifo.h — the client's FIFOs, opened so that a client that comes late, goes away or comes back neither blocks us nor ends the stream.
#pragma once

#include <optional>
#include <string>

#include "base/error.h"
#include "base/fd.h"

namespace wyvern::shim {

struct StdinEnds {
  UniqueFd reader;
  UniqueFd
      own_writer;  // as long as it is open a client that goes away is not the end; invalid if the path is no FIFO
};

// Never blocks.
Result<StdinEnds> OpenStdin(const std::string& path);

struct OutputEnds {
  UniqueFd writer;
  UniqueFd
      own_reader;  // as long as it is open a client that goes away is no broken pipe; invalid if the path is no FIFO
};

// Never blocks. Nothing while no client has opened its end (or waits in open): what we wrote and closed by then would be lost.
Result<std::optional<OutputEnds>> TryOpenOutput(const std::string& path);

// file://: appended to; missing directories are made.
Result<UniqueFd> OpenLogFile(const std::string& path);

}  // namespace wyvern::shim
