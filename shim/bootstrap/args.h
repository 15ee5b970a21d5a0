// bootstrap/args.h — the command line containerd gives a shim, in every dialect it has had.
// Shape:   -namespace NS -id ID -address SOCKET -publish-binary PATH [-bundle DIR] [-debug] ACTION; `-x v`, `--x v`, `-x=v`, any order.
// Errors:  INVALID_ARGUMENT for what we do not know, naming it.
#pragma once

#include <span>
#include <string>

#include "base/error.h"

namespace wyvern::shim {

enum class Action : uint8_t {
  kServe,  // no action word, or "serve": run the task service on an inherited socket
  kStart,
  kDelete,
  kVersion,  // -v
  kInfo,     // -info
  kHelp,
};

struct Args {
  Action action = Action::kServe;
  std::string ns;
  std::string id;
  std::string address;  // containerd's gRPC socket; part of our socket's name
  std::string publish_binary;
  std::string bundle;  // delete only
  std::string socket;  // serve only: the path we listen on, removed at exit
  bool debug = false;
};

// `argv` without the program's name.
Result<Args> ParseArgs(std::span<const std::string> argv);

std::string Usage();

}  // namespace wyvern::shim
