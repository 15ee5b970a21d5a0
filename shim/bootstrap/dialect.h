// bootstrap/dialect.h — what `start` reads from stdin and prints, for each generation of containerd.
// Shape:   1.6 to 2.2: stdin is an Any of runtime options or nothing, the answer is the plain address. 2.3 and later: stdin is BootstrapParams,
//          the answer BootstrapResult. BootstrapParams also decodes as an Any (type_url = id, value = namespace), so it counts as one only if it
//          names the instance that the command line names.
// Trust:   stdin is containerd's; bytes that decode as nothing are the plain dialect, never an error.
#pragma once

#include <string>
#include <string_view>

namespace wyvern::shim {

enum class Dialect : uint8_t { kPlain, kBootstrap };

struct StartInput {
  Dialect dialect = Dialect::kPlain;
  bool debug = false;
  std::string ttrpc_address;  // empty: TTRPC_ADDRESS of the environment
  std::string socket_dir;     // empty: the default
  std::string options;        // runtime options, an Any as it came; empty: none
};

StartInput DecodeStartInput(std::string_view bytes, std::string_view id, std::string_view ns);

// `address`: "unix:///…". No newline: containerd trims, but writes what it reads to disk.
std::string EncodeStartAnswer(Dialect dialect, const std::string& address);

}  // namespace wyvern::shim
