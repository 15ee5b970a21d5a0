// Bytes as the state of a file server, loaded into one over the small directory. A seed cannot know
// its inode numbers: 1 to 4 stand for those of a, d, d/b and l. Its server has no exports and lets the
// guest lose what is lost: states with both are fuse_request_fuzz's, which are never malformed.
#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "base/check.h"
#include "fs/fuzz_directory.h"

namespace wyvern::fs {
namespace {

FileServer& LoadingServer() {
  static const std::unique_ptr<FileServer> server = FuzzServer(nullptr);
  return *server;
}

const std::vector<FileIdentity>& Files() {
  static const std::vector<FileIdentity> files = [] {
    const UniqueFd root = *Open(FuzzDirectory(), O_PATH | O_DIRECTORY);
    std::vector<FileIdentity> found;
    for (const char* name : {"a", "d", "d/b", "l"}) {
      found.push_back(Identify(root, name)->identity);
    }
    return found;
  }();
  return files;
}

// 0, or why not; the payload's first bytes in `out`.
template <typename In, typename Out>
int Ask(uint32_t opcode, uint64_t node, const In& in, Out* out) {
  struct {
    fuse_in_header header{};
    In body;
  } request;

  struct {
    fuse_out_header header{};
    Out body{};
  } reply;

  request.header.len = sizeof(request);
  request.header.opcode = opcode;
  request.header.nodeid = node;
  request.body = in;
  static Scratch scratch;
  const iovec request_part{&request, sizeof(request)};
  const iovec reply_part{&reply, sizeof(reply)};
  LoadingServer().Handle(std::span(&request_part, 1), std::span(&reply_part, 1), &scratch);
  *out = reply.body;
  return -reply.header.error;
}

// What was loaded is of the directory, whatever the state said.
void Use(const FsState& state) {
  for (const FsState::Node& node : state.nodes) {
    fuse_attr_out attributes{};
    const int error = Ask(FUSE_GETATTR, node.node, fuse_getattr_in{}, &attributes);
    WV_CHECK(error == 0 || error == ESTALE);
    const auto is_it = [&](const FileIdentity& file) { return file.inode == attributes.attr.ino; };
    WV_CHECK(error != 0 || std::ranges::any_of(Files(), is_it));
  }
  for (const FsState::OpenFile& file : state.files) {
    fuse_read_in read{};
    read.fh = file.handle;
    read.size = 64;
    std::array<char, 64> bytes{};
    Ask(FUSE_READ, file.node, read, &bytes);
    Ask(FUSE_READDIR, file.node, read, &bytes);
  }
}

}  // namespace
}  // namespace wyvern::fs

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace wyvern::fs;  // NOLINT(google-build-using-namespace): a harness
  const auto bytes = std::as_bytes(std::span(data, size));
  auto state = DecodeState(bytes);
  if (!state) {
    return 0;
  }
  const std::vector<std::byte> again = EncodeState(*state);
  WV_CHECK(std::ranges::equal(again, bytes));  // one state has one form
  for (FsState::Node& node : state->nodes) {
    if (node.identity.inode >= 1 && node.identity.inode <= Files().size()) {
      node.identity = Files()[node.identity.inode - 1];
    }
  }
  FileServer& server = LoadingServer();
  const auto loaded = server.Load(*state, OnLoss::kGuestError);
  const ServerStats stats = server.stats();
  WV_CHECK(stats.inodes <= 256 && stats.handles <= 64);
  if (!loaded) {
    WV_CHECK(stats.inodes == 1 && stats.handles == 0);
    return 0;
  }
  Use(*state);
  const auto saved = server.Save();
  WV_CHECK(saved.has_value() && DecodeState(EncodeState(*saved)).has_value());
  server.Clear();
  WV_CHECK(server.stats().inodes == 1);
  return 0;
}
