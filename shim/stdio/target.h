// stdio/target.h — where a task's stdout and stderr go, as the client wrote it.
// Shape:   "" nothing; a path or fifo:///path; file:///path; binary:///program?k=v&… (a logger); binary-v2:///program;
//          ttrpc+unix:///socket?streaming_id=ID (a stream of our own streaming service: the address is the one that we gave, and is not looked at).
// Trust:   the client is root, but a wrong URI is an everyday mistake: INVALID_ARGUMENT that names it.
#pragma once

#include <string>
#include <vector>

#include "base/error.h"

namespace wyvern::shim {

enum class TargetKind : uint8_t { kNone, kFifo, kFile, kBinary, kStream };

struct Target {
  TargetKind kind = TargetKind::kNone;
  std::string path;
  std::string stream;                  // kStream: the id
  std::vector<std::string> arguments;  // of a logger: k v k v …, in the URI's order
  bool must_say_ready = false;         // binary-v2: a closed ready pipe without a byte is a failure
};

Result<Target> ParseTarget(const std::string& uri);

}  // namespace wyvern::shim
